"""D-FINE L (Peng et al., arXiv:2410.13842), as `transformers` has it."""

from detectron2.config import LazyCall as L

from detection.classes import CLASSES
from detection.modeling.transformers_detector import TransformersDetector

model = L(TransformersDetector)(
    model_type="d_fine",
    num_classes=len(CLASSES),
    config=dict(  # what differs from DFineConfig's defaults, and what one may want to change
        freeze_backbone_batch_norms=True,  # False where nothing is pretrained
        num_queries=300,
        num_denoising=100,
        decoder_layers=6,
        decoder_n_points=[3, 6, 3],
        backbone_config=dict(  # HGNetV2-B4
            model_type="hgnet_v2",
            out_indices=[2, 3, 4],
            hidden_sizes=[256, 512, 1024, 2048],
            stem_channels=[3, 32, 48],
            stage_in_channels=[48, 128, 512, 1024],
            stage_mid_channels=[48, 96, 192, 384],
            stage_out_channels=[128, 512, 1024, 2048],
            stage_num_blocks=[1, 1, 3, 1],
            stage_numb_of_layers=[6, 6, 6, 6],
            stage_downsample=[False, True, True, True],
            stage_light_block=[False, False, True, True],
            stage_kernel_size=[3, 3, 5, 5],
        ),
    ),
    input_format="RGB",
    multi_scale=list(range(480, 801, 32)),  # of the canvas, in training
)
