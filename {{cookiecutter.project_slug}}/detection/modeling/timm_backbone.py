"""Any backbone of timm, with the feature maps that a pyramid needs."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pickle import UnpicklingError

import timm
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from huggingface_hub import hf_hub_url
from omegaconf import OmegaConf
from safetensors import SafetensorError
from timm.layers import freeze_batch_norm_2d
from timm.models import PretrainedCfg
from timm.models.swin_transformer import SwinTransformerBlock

from detection.checkpoint.files import fetch
from detection.checkpoint.reading import explain, refuse_damaged
from detection.modeling.freezing import keep_frozen_statistics
from detection.utils.errors import UserError

logger = logging.getLogger(__name__)

_KEY = "model.backbone.bottom_up"
_SEE = "timm.list_models(pretrained=True) lists what there is"


class TimmBackbone(Backbone):
    """
    A timm model without its classifier, in place of detectron2's `ResNet`.

    Feature maps are named by their strides as ResNet's are: res2 has stride 4, res5 has 32. A ViT
    with patches of 16 pixels has res4 alone, after its last block.
    """

    def __init__(
        self,
        model_name: str,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        pretrained: bool = True,
        checkpoint_path: str = "",
        freeze_at: int = 0,
        freeze_norm: bool = True,
        gradient_checkpointing: bool = False,
        model_args: dict | None = None,
    ):
        """
        Args:
            model_name: timm's, with the tag of its weights, e.g. "convnext_tiny.in12k_ft_in1k";
                `timm.list_models(pretrained=True)` lists them.
            out_features: names of feature maps, by rising stride.
            pretrained: load the weights; False: random ones, for which `freeze_norm` is wrong.
            checkpoint_path: a path or URL of these weights, .safetensors or .pth, in place of
                timm's own download.
            freeze_at: 2 to 5: what computes res2 to res<freeze_at> stays as pretrained; 0: all
                learns.
            freeze_norm: BatchNorm keeps its pretrained statistics, scales and offsets.
            gradient_checkpointing: compute the blocks twice in training, for less memory.
            model_args: further arguments of `timm.create_model`.

        Raises:
            UserError: no such model, feature map or weights.
        """
        super().__init__()
        # timm wants lists as they are
        is_config = OmegaConf.is_config(model_args)
        args = OmegaConf.to_container(model_args) if is_config else dict(model_args or {})
        strides = [2 ** int(name.removeprefix("res")) for name in out_features]
        with _same_random_numbers():
            untrained = _create(model_name, **args)
        reductions = untrained.feature_info.reduction()
        is_plain_vit = len(reductions) > 1 and len(set(reductions)) == 1
        counts = dict.fromkeys(reductions, 1) if is_plain_vit else Counter(reductions)
        remedy = "take another model, such as resnet50.a1_in1k"
        if is_plain_vit:
            remedy = (
                "start from configs/faster_rcnn_dinov2_vit_s.py, whose pyramid needs one map only"
            )
        if missing := [stride for stride in strides if counts.get(stride) != 1]:
            raise UserError(
                f"timm's {model_name} has no feature map of stride {missing[0]}, but "
                f"{', '.join(map(str, counts))}; {remedy}"
            )
        args["out_indices"] = [-1] if is_plain_vit else [reductions.index(s) for s in strides]
        if pretrained:
            with _same_random_numbers():
                self.net = _create_pretrained(model_name, checkpoint_path, args)
            _check_loaded(self.net, untrained, checkpoint_path or model_name)
        else:
            self.net = _create(model_name, **args)
        # A GPU holds too few images for statistics of their own, and those of the pretraining are
        # good; where they must move, as on X-rays, freeze_norm=False with 8 images a GPU or more.
        if freeze_norm:
            self.net = freeze_batch_norm_2d(self.net)
        for module in self.net.modules():
            if type(module) is SwinTransformerBlock:
                module.__class__ = _SwinBlock
        if gradient_checkpointing:
            self._checkpoint_gradients(model_name)
        self._names = list(out_features)
        self._is_channels_last = str(getattr(self.net, "output_fmt", "NCHW")).endswith("NHWC")
        self._shapes = {
            name: ShapeSpec(channels=channels, stride=stride)
            for name, channels, stride in zip(
                out_features, self.net.feature_info.channels(), strides, strict=True
            )
        }
        if freeze_at:
            self._freeze(f"res{freeze_at}")

    @property
    def size_divisibility(self) -> int:
        return max(shape.stride for shape in self._shapes.values())

    def output_shape(self) -> dict[str, ShapeSpec]:
        return dict(self._shapes)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Feature maps (N, C, H / stride, W / stride) by name, of images (N, 3, H, W)."""
        maps = self.net(x)
        if self._is_channels_last:
            maps = [features.permute(0, 3, 1, 2).contiguous() for features in maps]
        return dict(zip(self._names, maps, strict=True))

    def _checkpoint_gradients(self, model_name: str) -> None:
        # of the blocks: `set_grad_checkpointing` of a cut model keeps those of a whole stage
        parts = [m for m in self.net.modules() if hasattr(m, "grad_checkpointing")]
        if not set(parts) - {self.net}:
            raise UserError(
                f"{_KEY}.gradient_checkpointing: timm's {model_name} does not support it; set it "
                "to False"
            )
        for part in parts:
            part.grad_checkpointing = part is not self.net

    def _freeze(self, name: str) -> None:
        if name not in self._shapes:
            raise UserError(
                f"freeze_at={name.removeprefix('res')}: there is no {name} among the feature maps "
                f"{', '.join(self._names)}"
            )
        # models differ in their modules' names, so ask for what the feature map depends on
        was_training = self.training
        side = 2 * self.size_divisibility
        features = self.eval()(torch.zeros(1, 3, side, side))[name]
        self.train(was_training)
        parameters = [p for p in self.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(features.sum(), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.requires_grad_(gradient is None)
        keep_frozen_statistics(self)


class _SwinBlock(SwinTransformerBlock):
    """
    A block that pads its map before the windows are shifted, as Swin's authors do.

    timm pads afterwards, and its mask then lets pixels of opposite edges see each other.
    """

    def _attn(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[1:3]
        down, right = -height % self.window_size[0], -width % self.window_size[1]
        return super()._attn(F.pad(x, (0, 0, 0, right, 0, down)))[:, :height, :width]


def pixel_statistics(model_name: str, of: str) -> list[float]:
    """
    The `mean` or `std` of RGB values, 0 to 255, with which timm's weights were trained.

    Raises:
        UserError: no such model.
    """
    return [255 * value for value in getattr(_pretrained_cfg(model_name), of)]


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _check_loaded(net: torch.nn.Module, untrained: torch.nn.Module, source: str) -> None:
    """Refuse what timm only logs: what is as in a model of the same random numbers was not loaded.

    Raises:
        UserError: the weights are of another model.
    """
    random = dict(untrained.named_parameters())
    lacking = [n for n, p in net.named_parameters() if p.ndim > 1 and torch.equal(p, random[n])]
    if lacking:
        raise UserError(
            f"{source}: no weights of this model, {len(lacking)} are missing, such as "
            f"{lacking[0]}; see {_KEY}.model_name"
        )


def _pretrained_cfg(model_name: str) -> PretrainedCfg:
    try:
        cfg = timm.get_pretrained_cfg(model_name)
    except RuntimeError as e:  # the tag
        raise UserError(f"timm: {e} {_SEE}") from e
    if cfg is None:
        raise UserError(f"timm has no model {model_name}; {_SEE}")
    return cfg


def _create(model_name: str, **args) -> torch.nn.Module:
    try:
        return timm.create_model(model_name, features_only=True, **args)
    except (AttributeError, RuntimeError, TypeError) as e:
        reason = str(e).splitlines()[0]
        raise UserError(f"timm's {model_name} gives no feature maps ({reason}); {_SEE}") from e


def _create_pretrained(model_name: str, checkpoint_path: str, args: dict) -> torch.nn.Module:
    cfg = _pretrained_cfg(model_name)
    if checkpoint_path:
        # not timm's argument of that name, which wants the file of a model cut down to features
        file = fetch(checkpoint_path)
        refuse_damaged(file)
        args["pretrained_cfg_overlay"] = {"file": file}
    elif not cfg.hf_hub_id and not cfg.url:
        raise UserError(f"timm has no weights of {model_name}; {_SEE}")
    source = checkpoint_path or cfg.url
    if not checkpoint_path and cfg.hf_hub_id:
        source = hf_hub_url(cfg.hf_hub_id, "model.safetensors")
    terms = cfg.license or "not stated"
    logger.info(f"weights of timm's {model_name}, from {source}, license: {terms}")
    try:
        return timm.create_model(model_name, features_only=True, pretrained=True, **args)
    except OSError as e:
        raise UserError(
            f"cannot fetch {source} ({type(e).__name__}); fetch it elsewhere and name the file in "
            f"{_KEY}.checkpoint_path, or start from random weights with {_KEY}.pretrained=False"
        ) from e
    except (EOFError, RuntimeError, UnpicklingError, SafetensorError) as e:
        cause = e.__cause__ or e  # timm's own advice is to run the code in the file
        if not isinstance(cause, RuntimeError):
            reason, remedy = explain(cause)
            raise UserError(f"{source}: not a file of weights: {reason}; {remedy}") from e
        reason = str(e).splitlines()[0]
        raise UserError(f"{source}: no weights of timm's {model_name} ({reason})") from e
