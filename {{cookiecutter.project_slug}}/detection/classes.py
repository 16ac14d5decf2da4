"""The class names: written here and nowhere else.

Their number sizes the heads; metrics, charts, submissions and reports take the names from the
data set's metadata. A class is removed, added or renamed by editing this list.
"""

CLASSES = [
    # In the order of the annotation file's category ids.{{ cookiecutter.classes | python_items }}
]
