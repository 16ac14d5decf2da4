"""What is changed in detectron2 v0.6, and why: plain replacements of text, checked by `apply`.

The texts that are replaced are upstream's (https://github.com/facebookresearch/detectron2, tag
v0.6, Apache-2.0). Where upstream's main has mended the same thing since, the edit does as main.
"""

from typing import NamedTuple

NOTICE = "# Changed from upstream's v0.6: see the metadata of this build for what and why.\n"


class EditError(Exception):
    """A text that is to be replaced does not occur as often as it should."""


class Edit(NamedTuple):
    """In `file` of the package, all `count` occurrences of `old` become `new`."""

    file: str
    old: str
    new: str
    count: int = 1


class Mend(NamedTuple):
    """The edits that one `reason` asks for. README.md explains each `name` to users."""

    name: str
    reason: str
    edits: list[Edit]


def apply(package, mends=None):
    """Mends `package`, the unpacked sources; raises EditError rather than guess."""
    for name, _, edits in MENDS if mends is None else mends:
        for file, old, new, count in edits:
            path = package / file
            if not path.is_file():
                raise EditError(f"edit '{name}': there is no {file}")
            text = path.read_text(encoding="utf-8")
            if text.count(old) != count:
                found = f"{text.count(old)} times, not {count}"
                raise EditError(f"edit '{name}': {file} has {old!r} {found}")
            # Apache-2.0, section 4(b): changed files say so.
            text = NOTICE + text.removeprefix(NOTICE).replace(old, new)
            path.write_text(text, encoding="utf-8", newline="\n")


ABSENT = '''

class _AbsentOperators:
    """Stands for the extension module, which this build does not have."""

    def __getattr__(self, name):
        raise ImportError(
            f"detectron2's {name} is a compiled operator (rotated boxes, deformable convolution, "
            "fast COCO evaluation), and this build of detectron2 has none. To get them, install "
            "from https://github.com/facebookresearch/detectron2 instead, which compiles them"
        )


_C = _AbsentOperators()
'''

WRAPPERS_END = "return x.nonzero(as_tuple=True)\n"  # the last line of layers/wrappers.py

IMPORT_C = "from detectron2 import _C\n"

MENDS = [
    Mend(
        "operators",
        "Modules that mostly serve other things import the extension module at their top.",
        [
            Edit("layers/wrappers.py", WRAPPERS_END, WRAPPERS_END + ABSENT),
            Edit("layers/deform_conv.py", IMPORT_C, "from .wrappers import _C\n"),
            Edit("layers/roi_align_rotated.py", IMPORT_C, "from .wrappers import _C\n"),
            Edit("layers/rotated_boxes.py", IMPORT_C, "from .wrappers import _C\n"),
            Edit("layers/nms.py", "import torch\n", "import torch\nfrom .wrappers import _C\n"),
            Edit("layers/nms.py", "torch.ops.detectron2.nms_rotated(", "_C.nms_rotated("),
        ],
    ),
    Mend(
        "coco-evaluation",
        "COCOEvaluator's default is the compiled evaluation: use pycocotools', as main does.",
        [
            Edit(  # fails here rather than in evaluate(), so that callers can tell
                "evaluation/fast_eval_api.py",
                IMPORT_C,
                "from detectron2.layers.wrappers import _C\n\n_C.COCOeval_opt\n",
            ),
            Edit(
                "evaluation/coco_evaluation.py",
                "from detectron2.evaluation.fast_eval_api import COCOeval_opt\n",
                "COCOeval_opt = COCOeval\n",
            ),
            Edit(  # only the log asks: it then says "official"
                "evaluation/coco_evaluation.py",
                "self._use_fast_impl = use_fast_impl",
                "self._use_fast_impl = False",
            ),
        ],
    ),
    Mend(
        "environment-report",
        "default_setup reports the environment: it need not look for compilers.",
        [
            Edit("utils/collect_env.py", "not built correctly: {e}", "absent: nothing is compiled"),
            Edit("utils/collect_env.py", "except ImportError as e:", "except ImportError:"),
            Edit(
                "utils/collect_env.py",
                'if sys.platform != "win32":  # don\'t know what to do for windows',
                'if "CXX" in os.environ:',
            ),
        ],
    ),
    Mend(
        "model-zoo",
        "setuptools 81 dropped pkg_resources.",
        [
            Edit("model_zoo/model_zoo.py", "import pkg_resources\n", ""),
            Edit(
                "model_zoo/model_zoo.py",
                'pkg_resources.resource_filename(\n        "detectron2.model_zoo", '
                'os.path.join("configs", config_path)\n    )',
                'os.path.join(os.path.dirname(__file__), "configs", config_path)',
            ),
        ],
    ),
    Mend(
        "pillow",
        "Pillow 10 dropped Image.LINEAR.",
        [Edit("data/transforms/transform.py", "Image.LINEAR", "Image.BILINEAR")],
    ),
    Mend(
        "numpy",
        "numpy 1.24 dropped np.bool and its like; numpy 2 raises where copy=False must copy.",
        [
            Edit("data/build.py", "dtype=np.int\n", "dtype=int\n"),
            Edit("data/build.py", "dtype=np.int)", "dtype=int)"),
            Edit("data/datasets/pascal_voc.py", "np.str)", "str)"),
            Edit("evaluation/pascal_voc_evaluation.py", "np.bool)", "bool)", 2),
            Edit("evaluation/sem_seg_evaluation.py", "np.int)", "int)", 2),
            Edit("evaluation/sem_seg_evaluation.py", "np.float)", "float)", 5),
            Edit("layers/mask_ops.py", "np.array(mask, copy=False)", "np.asarray(mask)"),
            Edit("structures/masks.py", "np.bool)", "bool)", 3),
            Edit("utils/video_visualizer.py", "np.bool)", "bool)"),
            Edit("utils/visualizer.py", "np.bool)", "bool)", 3),
        ],
    ),
    Mend(
        "python",
        "Python 3.11 does not sample from sets; importlib has its submodules only if imported; "
        "Logger.warn is deprecated.",
        [
            Edit(
                "data/common.py",
                "(self._fallback_candidates, k=1)",
                "(list(self._fallback_candidates), k=1)",
            ),
            Edit(
                "projects/__init__.py",
                "import importlib\n",
                "import importlib.abc\nimport importlib.util\n",
            ),
            Edit("data/datasets/coco.py", "logger.warn(", "logger.warning(", 2),
            Edit("engine/defaults.py", "logger.warn(", "logger.warning("),
            Edit("evaluation/coco_evaluation.py", "logger.warn(", "logger.warning(", 2),
            Edit("evaluation/lvis_evaluation.py", "logger.warn(", "logger.warning(", 2),
            Edit("evaluation/sem_seg_evaluation.py", "logger.warn(", "logger.warning(", 2),
        ],
    ),
    Mend(
        "scheduler-state",
        "torch 2 renamed the schedulers' base class: their state was silently not saved, and a "
        "resumed run began the schedule anew.",
        [Edit("engine/hooks.py", "lr_scheduler._LRScheduler", "lr_scheduler.LRScheduler", 2)],
    ),
    Mend(
        "mixed-precision",
        "torch.cuda.amp is deprecated.",
        [
            Edit("engine/train_loop.py", "from torch.cuda.amp import", "from torch.amp import", 2),
            Edit("engine/train_loop.py", "with autocast():", 'with autocast("cuda"):'),
        ],
    ),
    Mend(
        "torch-warnings",
        "torch warns of torch.jit.script (fvcore calls it too), meshgrid without indexing, and "
        "typed storages.",
        [
            Edit("modeling/box_regression.py", "@torch.jit.script\n", "", 2),
            Edit(
                "utils/env.py",
                "    import fvcore\n",
                "    import warnings\n"
                "    with warnings.catch_warnings():\n"
                '        warnings.simplefilter("ignore", FutureWarning)\n'
                "        import fvcore.nn\n",
            ),
            Edit(
                "modeling/anchor_generator.py",
                "torch.meshgrid(shifts_y, shifts_x)",
                'torch.meshgrid(shifts_y, shifts_x, indexing="ij")',
            ),
            Edit(
                "utils/comm.py",
                "    storage = torch.ByteStorage.from_buffer(buffer)\n"
                "    tensor = torch.ByteTensor(storage).to(device=device)\n",
                "    tensor = torch.frombuffer(bytearray(buffer), dtype=torch.uint8).to(device)\n",
            ),
        ],
    ),
    Mend(
        "fcos",
        "FCOS's GroupNorm has 32 groups, so a probe with one channel raises.",
        [Edit("modeling/meta_arch/retinanet.py", "get_norm(norm, 1)", "get_norm(norm, 32)")],
    ),
    Mend(
        "processes-on-cpu",
        "Several processes without GPUs: gloo in place of NCCL, and DDP with no device ids.",
        [
            Edit(
                "engine/launch.py",
                "    assert torch.cuda.is_available(), "
                '"cuda is not available. Please check your installation."\n',
                "    has_gpu = torch.cuda.is_available()\n",
            ),
            Edit("engine/launch.py", '"NCCL"', '"NCCL" if has_gpu else "GLOO"'),
            Edit(
                "engine/launch.py",
                "    assert num_gpus_per_machine <= torch.cuda.device_count()\n"
                "    torch.cuda.set_device(local_rank)\n",
                "    if has_gpu:\n"
                "        assert num_gpus_per_machine <= torch.cuda.device_count()\n"
                "        torch.cuda.set_device(local_rank)\n",
            ),
            Edit(
                "engine/defaults.py",
                'if "device_ids" not in kwargs:',
                'if "device_ids" not in kwargs and next(model.parameters()).is_cuda:',
            ),
        ],
    ),
    Mend(
        "export",
        "torch dropped caffe2. Tracing and scripting stay.",
        [Edit("export/__init__.py", "from .api import *\n", "")],
    ),
    Mend(
        "config-as-python",
        "LazyConfig.to_py needs black only to make its result pretty.",
        [
            Edit("config/lazy.py", "        import black\n\n", ""),
            Edit(
                "config/lazy.py",
                "            return black.format_str(py_str, mode=black.Mode())\n"
                "        except black.InvalidInput:\n",
                "            import black\n\n"
                "            return black.format_str(py_str, mode=black.Mode())\n"
                "        except (ImportError, ValueError):\n",
            ),
        ],
    ),
]
