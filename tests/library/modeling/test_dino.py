"""detection/modeling/dino: DINO's attention, queries, losses, boxes and the authors' weights."""

import argparse

import numpy as np
import pytest
import torch
import torchvision
from conftest import PROJECT_ROOT
from detection.checkpoint.files import SafeCheckpointer
from detection.modeling.dino.attention import DeformableAttention
from detection.modeling.dino.denoising import ContrastiveDenoising
from detection.modeling.dino.transformer import DeformableTransformer
from detection.modeling.dino.weights import own_names
from detection.modeling.freezing import freeze
from detection.solver.optimizer import layer_decayed_params
from detection.utils.errors import UserError
from detectron2.config import LazyConfig, instantiate
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from tiny_detectors import tiny_dino

DIM, QUERIES = 32, 20
COCO = MetadataCatalog.get("coco_2017_val").thing_classes


def example(height: int = 64, width: int = 96, boxes=((10.0, 20.0, 60.0, 50.0),) * 2) -> dict:
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
    instances.gt_classes = torch.arange(len(boxes)) % 3
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return {"image": image, "instances": instances}


def labels(*counts: int) -> list[dict]:
    return [
        {
            "class_labels": torch.randint(0, 3, (count,)),
            "boxes": torch.cat([0.3 + 0.4 * torch.rand(count, 2), torch.full((count, 2), 0.2)], 1),
        }
        for count in counts
    ]


@pytest.fixture
def transformer() -> DeformableTransformer:
    return tiny_dino().transformer.eval()


def maps(*sizes: tuple[int, int], count: int = 2) -> list[torch.Tensor]:
    return [torch.randn(count, DIM, *size) for size in sizes]


def no_padding(levels: list[torch.Tensor]) -> list[torch.Tensor]:
    return [torch.zeros(len(m), *m.shape[2:], dtype=torch.bool) for m in levels]


def bilinear(pixels: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """A map (dim, height, width) at a place between pixels' centers; 0 outside."""
    height, width = pixels.shape[1:]
    x, y = x * width - 0.5, y * height - 0.5
    total = torch.zeros(len(pixels))
    for column in (int(np.floor(x)), int(np.floor(x)) + 1):
        for row in (int(np.floor(y)), int(np.floor(y)) + 1):
            if 0 <= column < width and 0 <= row < height:
                total += (1 - abs(x - column)) * (1 - abs(y - row)) * pixels[:, row, column]
    return total


@pytest.mark.parametrize("coordinates", [2, 4], ids=["points", "boxes"])
def test_attention_is_a_weighted_sum_over_points(coordinates):
    """Against the definition, point by point; padding counts as 0."""
    torch.manual_seed(0)
    heads, points, shapes = 2, 3, [(4, 6), (2, 3)]
    attention = DeformableAttention(8, heads, len(shapes), points)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    size = sum(h * w for h, w in shapes)
    queries, values = torch.randn(1, 5, 8), torch.randn(1, size, 8)
    references = torch.rand(1, 5, len(shapes), coordinates)
    padding = torch.rand(1, size) < 0.2
    with torch.no_grad():
        found = attention(queries, references, values, shapes, padding)[0]
        projected = attention.value_proj(values)[0] * ~padding[0, :, None]
        offsets = attention.sampling_offsets(queries)[0].view(5, heads, len(shapes), points, 2)
        weights = attention.attention_weights(queries)[0].view(5, heads, -1).softmax(-1)
        expected = torch.zeros(5, 8)
        for query in range(5):
            for head in range(heads):
                part = slice(4 * head, 4 * head + 4)
                first = 0
                for level, (h, w) in enumerate(shapes):
                    pixels = projected[first : first + h * w, part].T.view(4, h, w)
                    first += h * w
                    for point in range(points):
                        x, y, *side = references[0, query, level].tolist()
                        dx, dy = offsets[query, head, level, point].tolist()
                        unit = [s / 2 / points for s in side] or [1 / w, 1 / h]
                        place = x + dx * unit[0], y + dy * unit[1]
                        weight = weights[query, head, level * points + point]
                        expected[query, part] += weight * bilinear(pixels, *place)
        torch.testing.assert_close(found, attention.output_proj(expected), atol=1e-5, rtol=1e-4)


def test_padding_changes_nothing(transformer):
    torch.manual_seed(0)
    sizes = [(8, 12), (4, 6), (2, 3), (1, 2)]
    image = maps(*sizes, count=1)
    padded = [10 * torch.randn(1, DIM, 2 * h, 2 * w) for h, w in sizes]
    padding = [torch.ones(1, 2 * h, 2 * w, dtype=torch.bool) for h, w in sizes]
    for (h, w), pixels, canvas, mask in zip(sizes, image, padded, padding, strict=True):
        canvas[..., :h, :w], mask[:, :h, :w] = pixels, False
    with torch.no_grad():
        alone = transformer(image, no_padding(image)).layers[-1]
        other = transformer(padded, padding).layers[-1]
    for one, two in zip(alone, other, strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


def test_queries_to_denoise_are_seen_by_their_group_alone(transformer):
    torch.manual_seed(0)
    levels = maps((8, 12), (4, 6), (2, 3), (1, 2))
    noised = ContrastiveDenoising(3, DIM, num_queries=9)(labels(3, 0))
    assert noised.num_groups == 3 and noised.content.shape == (2, 18, DIM)
    changed = noised.content.clone()
    changed[:, noised.group == 1] += 1
    with torch.no_grad():
        alone = transformer(levels, no_padding(levels))
        before = transformer(levels, no_padding(levels), noised)
        after = transformer(levels, no_padding(levels), noised._replace(content=changed))
    for one, *others in zip(alone.layers, before.layers, after.layers, strict=True):
        for other in others:
            torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-4)
    moved = (before.denoised[-1][0] - after.denoised[-1][0]).abs().amax((0, 2)) > 1e-4
    assert torch.equal(moved, noised.group == 1)


def test_noise_is_contrastive():
    """Each group has each object twice: little moved, and moved by more than that."""
    torch.manual_seed(0)
    truth = labels(2, 3)
    noised = ContrastiveDenoising(3, DIM, num_queries=300, label_noise=0.0)(truth)
    objects = torch.cat([label["boxes"] for label in truth])
    image, query, number = noised.pairs
    assert noised.num_groups == 100 and len(number) == 500
    assert torch.equal(image, (number >= 2).long())

    def shift(boxes):  # of corners, in halves of a side of 0.2
        center, size = (boxes - objects[number]).split(2, 1)
        return torch.cat([center - size / 2, center + size / 2], 1).abs() / 0.1

    near, far = (shift(noised.boxes[image, query + k]) for k in (0, 3))
    assert near.max() <= 0.4 + 1e-4 and near.max() > 0.35
    assert far.min() >= 0.4 - 1e-4 and far.max() <= 0.8 + 1e-4


def test_each_layer_trains_the_boxes_of_the_one_before(transformer):
    """Look forward twice: a loss on a layer's boxes reaches how the layer before moved them."""
    moves = []

    def remember(module, inputs, output):
        output.retain_grad()
        moves.append(output)

    transformer.decoder.bbox_embed.register_forward_hook(remember)
    levels = maps((8, 12), (4, 6), (2, 3), (1, 2))
    _, boxes = transformer(levels, no_padding(levels)).layers[1]
    boxes.sum().backward()
    # of each layer: what it predicts, and where the next one starts
    assert [move.grad is not None for move in moves] == [False, True, True, False]


SIZES = [(100, 100), (37, 211), (480, 90), (2, 3), (1500, 2000)]


def test_planted_boxes_come_back_to_the_pixel(monkeypatch):
    """What a perfect model predicts, from the labels it is given, is where the objects are."""
    detector = tiny_dino()
    batch, planted = [], []
    for height, width in SIZES:
        box = [0.25 * width, 0.5 * height, 0.75 * width, height]
        planted.append(box)
        factor = 128 / max(height, width)
        h, w = max(1, round(factor * height)), max(1, round(factor * width))
        scaled = [box[0] * w / width, box[1] * h / height, box[2] * w / width, box[3] * h / height]
        batch.append({**example(h, w, [scaled]), "height": height, "width": width})
    seen = []

    def remember(pixels, mask, labels):
        seen.extend(labels)
        return {"loss_cls": pixels.sum()}

    def perfect(pixels, mask):
        logits = torch.full((len(seen), 1, 3), -5.0)
        logits[..., 0] = 5.0
        return logits, torch.stack([label["boxes"] for label in seen])

    monkeypatch.setattr(detector, "layer_losses", remember)
    monkeypatch.setattr(detector, "predict", perfect)
    detector.train()(batch)
    for result, box, size in zip(detector.eval()(batch), planted, SIZES, strict=True):
        found = result["instances"][result["instances"].scores > 0.5]
        assert found.image_size == size and found.pred_classes.tolist() == [0]
        assert np.abs(found.pred_boxes.tensor[0].numpy() - box).max() < 1e-3 + 1e-5 * max(size)


def test_losses_are_named_and_summed_as_other_detrs():
    detector = tiny_dino(log_layers=True).train()
    with EventStorage() as storage:
        losses = detector([example(), example(boxes=())])
        stored = {name: value for name, (value, _) in storage.latest().items()}
    kinds = {"loss_cls", "loss_bbox", "loss_iou"}
    assert losses.keys() == kinds | {"loss_aux", "loss_enc", "loss_dn"}
    groups = {"loss_aux": "d0.", "loss_enc": "enc_"}
    for total, prefix in groups.items():
        parts = [stored[f"{prefix}{kind}"] for kind in kinds]
        assert sum(parts) == pytest.approx(losses[total].item(), rel=1e-5)
    dn = [value for name, value in stored.items() if "dn_" in name]
    assert len(dn) == 6 and sum(dn) == pytest.approx(losses["loss_dn"].item(), rel=1e-5)


def test_one_class_and_no_boxes_train():
    detector = tiny_dino(num_classes=1).train()
    losses = detector([example(boxes=())])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values()) and "loss_dn" not in losses
    assert any(p.grad is not None and p.grad.any() for p in detector.backbone.parameters())
    sum(detector([example(boxes=[(1.0, 1, 30, 30)]), example(boxes=())]).values()).backward()


def test_losses_are_float32_in_mixed_precision():
    detector = tiny_dino().train()
    seen = []
    losses_of = detector.criterion._losses

    def remember(logits, boxes, *args):
        seen.append((boxes.dtype, torch.is_autocast_enabled("cpu")))
        return losses_of(logits, boxes, *args)

    detector.criterion._losses = remember
    torch.manual_seed(0)
    batch = [example(), example()]
    with torch.autocast("cpu", torch.bfloat16):
        losses = detector(batch)
    assert set(seen) == {(torch.float32, False)}
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    with torch.no_grad():
        next(iter(detector.backbone.parameters())).fill_(torch.nan)
    with pytest.raises(FloatingPointError):
        detector(batch)


def test_gradient_checkpointing_changes_no_gradient():
    torch.manual_seed(0)
    batch, gradients = [example()], []
    for enabled in (False, True):
        detector = tiny_dino(transformer={"gradient_checkpointing": enabled}).train()
        torch.manual_seed(1)
        sum(detector(batch).values()).backward()
        gradients.append([p.grad for p in detector.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_the_backbone_alone_learns_slowly():
    detector = tiny_dino()
    groups = layer_decayed_params(detector, 1.0, backbone_lr_factor=0.1)
    rates = {p: group["lr"] for group in groups for p in group["params"]}
    slow = {n for n, p in detector.named_parameters() if rates.get(p) == 0.1}
    trained = {n for n, p in detector.named_parameters() if p.requires_grad}
    assert slow == {n for n in trained if n.startswith("backbone.bottom_up.")} != set()
    freeze(detector, ["backbone.bottom_up"])
    assert {n for n, p in detector.named_parameters() if p.requires_grad} == trained - slow


def authors_state(backbone: dict, dim: int, hidden: int, layers: int, queries: int, fill) -> dict:
    """IDEA-Research/DINO's names for a model of four scales and COCO's 91 rows."""
    shapes = {"transformer.level_embed": (4, dim), "transformer.tgt_embed.weight": (queries, dim)}

    def linear(name, out, inputs):
        shapes.update({f"{name}.weight": (out, inputs), f"{name}.bias": (out,)})

    def norm(name):
        shapes.update({f"{name}.weight": (dim,), f"{name}.bias": (dim,)})

    def heads(prefix, infix):
        linear(f"{prefix}class_embed{infix}", 91, dim)
        for k in range(3):
            linear(f"{prefix}bbox_embed{infix}.layers.{k}", 4 if k == 2 else dim, dim)

    for part, attention in (("encoder", "self_attn"), ("decoder", "cross_attn")):
        for layer in range(layers):
            name = f"transformer.{part}.layers.{layer}"
            linear(f"{name}.{attention}.sampling_offsets", 8 * 4 * 4 * 2, dim)
            linear(f"{name}.{attention}.attention_weights", 8 * 4 * 4, dim)
            linear(f"{name}.{attention}.value_proj", dim, dim)
            linear(f"{name}.{attention}.output_proj", dim, dim)
            linear(f"{name}.linear1", hidden, dim)
            linear(f"{name}.linear2", dim, hidden)
            norm(f"{name}.norm1")
            norm(f"{name}.norm2")
            if part == "decoder":
                norm(f"{name}.norm3")
                shapes[f"{name}.self_attn.in_proj_weight"] = (3 * dim, dim)
                shapes[f"{name}.self_attn.in_proj_bias"] = (3 * dim,)
                linear(f"{name}.self_attn.out_proj", dim, dim)
                heads("transformer.decoder.", f".{layer}")
                heads("", f".{layer}")
    norm("transformer.decoder.norm")
    linear("transformer.decoder.ref_point_head.layers.0", dim, 2 * dim)
    linear("transformer.decoder.ref_point_head.layers.1", dim, dim)
    linear("transformer.enc_output", dim, dim)
    norm("transformer.enc_output_norm")
    heads("transformer.enc_out_", "")
    shapes["label_enc.weight"] = (92, dim)
    channels = backbone.pop("channels")
    for k, width in enumerate([*channels, channels[-1]]):
        side = 1 if k < 3 else 3
        shapes[f"input_proj.{k}.0.weight"] = (dim, width, side, side)
        shapes[f"input_proj.{k}.0.bias"] = (dim,)
        norm(f"input_proj.{k}.1")
    state = {name: fill(shape) for name, shape in {**shapes, **backbone}.items()}
    # all layers of the decoder share their heads
    for name in state:
        first = name.replace("transformer.decoder.", "") if "_embed." in name else name
        parts = first.split(".")
        if parts[0] in ("class_embed", "bbox_embed"):
            state[name] = state[".".join([parts[0], "0", *parts[2:]])]
    return state


def resnet_shapes(depth: int) -> dict:
    with torch.device("meta"):
        net = getattr(torchvision.models, f"resnet{depth}")()
    names = {
        f"backbone.0.body.{name}": tuple(value.shape)
        for name, value in net.state_dict().items()
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }
    return {**names, "channels": (512, 1024, 2048) if depth == 50 else (128, 256, 512)}


def swin_l_shapes() -> dict:
    """Microsoft's Swin-L, windows of 12 pixels, with norms behind the last three stages."""
    shapes = {"channels": (384, 768, 1536)}

    def add(name, *shape, bias=True):
        shapes[f"backbone.0.{name}.weight"] = shape
        if bias:
            shapes[f"backbone.0.{name}.bias"] = shape[:1]

    add("patch_embed.proj", 192, 3, 4, 4)
    add("patch_embed.norm", 192)
    for stage, depth in enumerate((2, 2, 18, 2)):
        dim, heads = 192 * 2**stage, 6 * 2**stage
        for number in range(depth):
            block = f"layers.{stage}.blocks.{number}"
            add(f"{block}.norm1", dim)
            add(f"{block}.norm2", dim)
            add(f"{block}.attn.qkv", 3 * dim, dim)
            add(f"{block}.attn.proj", dim, dim)
            add(f"{block}.mlp.fc1", 4 * dim, dim)
            add(f"{block}.mlp.fc2", dim, 4 * dim)
            attention = f"backbone.0.{block}.attn"
            shapes[f"{attention}.relative_position_bias_table"] = (23 * 23, heads)
            shapes[f"{attention}.relative_position_index"] = (144, 144)
        if stage < 3:
            add(f"layers.{stage}.downsample.reduction", 2 * dim, 4 * dim, bias=False)
            add(f"layers.{stage}.downsample.norm", 4 * dim)
        if stage:
            add(f"norm{stage}", dim)
    return shapes


@pytest.mark.parametrize(
    ("leaf", "backbone"), [("dino_R_50", resnet_shapes), ("dino_swin_l", swin_l_shapes)]
)
def test_the_authors_names_and_shapes_are_the_models(leaf, backbone):
    """Of the whole models, whose numbers take no memory here."""
    model = LazyConfig.load(str(PROJECT_ROOT / f"configs/{leaf}.py")).model
    model.num_classes = len(COCO)
    if "pretrained" in model.backbone.bottom_up:
        model.backbone.bottom_up.pretrained = False
    with torch.device("meta"):
        detector = instantiate(model)
    shapes = backbone(50) if leaf == "dino_R_50" else backbone()
    state = authors_state(shapes, 256, 2048, 6, 900, lambda shape: torch.zeros(1).expand(shape))
    loaded = own_names(detector, {"model": state}, "checkpoint.pth")
    assert loaded["thing_classes"] == COCO
    wanted = {name: tuple(value.shape) for name, value in detector.state_dict().items()}
    assert {name: tuple(value.shape) for name, value in loaded["model"].items()} == wanted


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file as the authors save it, of a model as small as tiny_dino."""
    torch.manual_seed(5)
    state = authors_state(resnet_shapes(18), DIM, 64, 2, QUERIES, lambda s: torch.rand(s) * 0.05)
    file = tmp_path_factory.mktemp("published") / "checkpoint0011_4scale.pth"
    torch.save(
        {"model": state, "epoch": 11, "args": argparse.Namespace(lr=1e-4, names=["a"])}, file
    )
    return state, str(file)


def test_published_weights_are_loaded_and_classes_by_name(published, lines):
    state, file = published
    detector = tiny_dino(transformer={"num_heads": 8})
    fresh = {name: value.clone() for name, value in detector.state_dict().items()}
    SafeCheckpointer(detector, classes=["a", "dog", "person"]).load(file)
    said = lines()
    assert not [line for line in said if "lack" in line or "other shapes" in line]
    assert [line for line in said if "apache-2.0" in line]
    own = detector.state_dict()
    for name, theirs in {
        "backbone.bottom_up.stem.conv1.weight": "backbone.0.body.conv1.weight",
        "backbone.bottom_up.res4.1.conv2.norm.running_var": (
            "backbone.0.body.layer3.1.bn2.running_var"
        ),
        "backbone.bottom_up.res5.0.shortcut.weight": "backbone.0.body.layer4.0.downsample.0.weight",
        "backbone.input_proj.3.0.weight": "input_proj.3.0.weight",
        "transformer.tgt_embed.weight": "transformer.tgt_embed.weight",
        "transformer.decoder.bbox_embed.layers.0.weight": "bbox_embed.1.layers.0.weight",
        "transformer.decoder.layers.1.self_attn.in_proj_bias": (
            "transformer.decoder.layers.1.self_attn.in_proj_bias"
        ),
    }.items():
        assert torch.equal(own[name], state[theirs]), name
    heads = {
        "transformer.decoder.class_embed.weight": "class_embed.0.weight",
        "transformer.enc_out_class_embed.bias": "transformer.enc_out_class_embed.bias",
        "denoising.class_embed.weight": "label_enc.weight",
    }
    for name, theirs in heads.items():
        assert torch.equal(own[name][1:], state[theirs][[18, 1]]), name  # COCO's ids
        assert torch.equal(own[name][0], fresh[name][0]), name
    loaded = [name for name in own if name not in heads and torch.equal(own[name], fresh[name])]
    assert not [name for name in loaded if name.endswith("weight")]


def test_weights_for_other_pixels_or_heads_are_refused(published, tmp_path):
    state, file = published
    with pytest.raises(UserError, match=r"model\.input_format=RGB"):
        SafeCheckpointer(tiny_dino(input_format="BGR")).load(file)
    name = "transformer.decoder.class_embed.1.bias"
    torch.save({"model": {**state, name: state[name] + 1}}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="not shared"):
        SafeCheckpointer(tiny_dino()).load(str(tmp_path / "other.pth"))


def test_own_checkpoints_come_back_as_they_were(tmp_path):
    detector, other = tiny_dino().eval(), tiny_dino().eval()
    SafeCheckpointer(detector, str(tmp_path)).save("model")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    SafeCheckpointer(other).load(str(tmp_path / "model.pth"))
    image = [example(128, 128)]
    with torch.no_grad():
        one, two = (model(image)[0]["instances"] for model in (detector, other))
    assert len(one) and torch.equal(one.scores, two.scores)
    assert torch.equal(one.pred_boxes.tensor, two.pred_boxes.tensor)


def _gradients(batch: list[dict], wrap=lambda model: model) -> torch.Tensor:
    detector = tiny_dino().train()
    detector.denoising._num_queries = 0  # random
    model = wrap(detector)
    for _ in range(2):  # gradients that are waited for in vain show in the second step
        model.zero_grad()
        sum(model(batch).values()).backward()
    trained = [p for p in detector.parameters() if p.requires_grad]
    return torch.cat(
        [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained]
    )


def _two_images() -> list[dict]:
    torch.manual_seed(7)
    return [example(128, 128), example(128, 128, boxes=())]


def _train_apart(address: str, rank: int, results) -> None:
    torch.distributed.init_process_group("gloo", address, rank=rank, world_size=2)
    results[rank] = _gradients([_two_images()[rank]], torch.nn.parallel.DistributedDataParallel)


@pytest.mark.slow
def test_two_processes_train_as_one_though_a_batch_has_no_boxes(tmp_path):
    context = torch.multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        results = manager.dict()
        processes = [
            context.Process(target=_train_apart, args=(f"file://{tmp_path}/meet", rank, results))
            for rank in (0, 1)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0, 0]
        first, second = results[0], results[1]
    alone = _gradients(_two_images())
    assert torch.equal(first, second)
    assert (first - alone).norm() < 0.02 * alone.norm()
