"""The same few images through a whole run: what TensorBoard's pictures are drawn of.

They are the first of each source, with the crop and the mask of their first epoch: a function of
the seed alone, whichever rank, worker or start draws them. Photographs are shown where the licence
of their dataset lets anyone show them, or where the user says so (log.images).
"""

import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from maskedclip.config import Config
from maskedclip.data.captions import Wording, captions, prompts, wording_of
from maskedclip.data.licences import may_be_shown
from maskedclip.data.rows import BatchRow, RowJob, draws_of, make_row, read_row
from maskedclip.data.source import SampleRef, Source
from maskedclip.data.storage.shards import DamagedSample
from maskedclip.data.stream import Batch
from maskedclip.models.text import Tokenizer
from maskedclip.pretrain.sources import single_crop

logger = logging.getLogger(__name__)
IMAGES = 6  # half of them paired, where there are both
CAPTIONS = 24  # different ones, among which an image finds its nearest
_AT_ONCE, _SEARCHED = 64, 2048  # positions of a source


class FixedSamples(NamedTuple):
    """B images as a batch whose captions are those of all, C >= B of them."""

    batch: Batch
    datasets: list[str]  # of each image
    own: list[list[str]]  # captions of each image; none of unpaired ones
    captions: list[str]  # different ones; fewer than C where the batch repeats some
    prefix: str = ""  # of the run's template; captions of a card's own begin with another

    def on(self, device: torch.device) -> Batch:
        """Return the batch with its tensors on a device."""
        fields = self.batch._asdict().items()
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in fields if isinstance(value, Tensor)
        }
        return self.batch._replace(**moved)


def fixed_samples(
    config: Config, sources: tuple[Source | None, Source | None], tokenize: Tokenizer
) -> FixedSamples | None:
    """Return the samples; None, with a line, where no image may be shown."""
    given = [source for source in sources if source is not None]
    chosen = [
        job for source in given for job in _jobs(config, source, IMAGES // len(given), sources[0])
    ]
    view = single_crop(config)
    rows = [(job, make_row(job, read_row(job), view)) for job in chosen]
    rows = [(job, row) for job, row in rows if row.lost is None]  # a substitute is another image
    if not rows:
        if dist.get_rank() == 0:
            logger.info(
                "TensorBoard gets no pictures: no source has images whose licence says that anyone "
                "may show them; --log.images draws them for your own eyes"
            )
        return None
    own = [_words(job, config) for job, _ in rows]
    different = dict.fromkeys(word for words in own for word in words)
    different |= dict.fromkeys(_others(config, sources[0]))
    shown = list(different)[:CAPTIONS]
    names = [job.source.datasets[job.ref.dataset].name for job, _ in rows]
    manifest = sources[0].datasets[0].manifest if sources[0] is not None else {}
    prefix = wording_of(manifest, config.data.caption_template).template.partition("[CLS]")[0]
    return FixedSamples(_batch(rows, shown, tokenize), names, own, shown, prefix)


def _jobs(config: Config, source: Source, count: int, paired: Source | None) -> list[RowJob]:
    """Return the first `count` different samples of a source that may be shown."""
    view, jobs, known = single_crop(config), list[RowJob](), set[tuple[int, int]]()
    for ref in _shown_refs(config, source):
        if (ref.dataset, ref.sample) in known:  # in its next epoch
            continue
        known.add((ref.dataset, ref.sample))
        image_HWC = np.empty((view.image_size, view.image_size, 3), np.uint8)
        draws = draws_of(source, [ref], view)[0]
        jobs.append(RowJob(source, ref, 0, len(jobs), source is paired, draws, image_HWC))
        if len(jobs) == count:
            break
    return jobs


def _shown_refs(config: Config, source: Source) -> Iterator[SampleRef]:
    shown = [config.log.images or may_be_shown(d.manifest) for d in source.datasets]
    for first in range(0, _SEARCHED if any(shown) else 0, _AT_ONCE):
        yield from (ref for ref in source.samples_at(first, _AT_ONCE) if shown[ref.dataset])


def _words(job: RowJob, config: Config) -> list[str]:
    return _captions_of(job.source, job.ref, config) if job.paired else []


def _others(config: Config, paired: Source | None) -> Iterator[str]:
    """Yield captions of further pairs, whichever images may be shown."""
    refs = paired.samples_at(0, _SEARCHED // 4) if paired is not None else ()
    for ref in refs:
        assert paired is not None
        yield from _captions_of(paired, ref, config)


def _captions_of(source: Source, ref: SampleRef, config: Config) -> list[str]:
    """Return the first caption of each finding of a sample, or a report that may be shown."""
    dataset, data = source.datasets[ref.dataset], config.data
    try:
        facts = dataset.metadata(ref.sample)
    except DamagedSample:  # the run's own list names it
        return []
    may = config.log.images or may_be_shown(dataset.manifest)
    wording = wording_of(dataset.manifest, data.caption_template)
    return _first_wordings(
        facts["categories"], facts["report"] if may else None, wording, data.caption_from
    )


def _first_wordings(
    categories: list[str], report: str | None, wording: Wording, prefer: str
) -> list[str]:
    if report and (prefer == "report" or not categories):
        return captions((), report, wording)
    quoted = captions((), report, wording) if report and prefer == "both" else []
    return quoted + [prompts(category, wording)[0] for category in categories]


def _batch(rows: list[tuple[RowJob, BatchRow]], shown: list[str], tokenize: Tokenizer) -> Batch:
    images = torch.from_numpy(np.stack([job.image_HWC for job, _ in rows]))
    # a pass of whole images takes as many as there are captions
    padding = [shown[0] if shown else ""] * max(0, len(rows) - len(shown))
    token_CL, token_mask_CL = tokenize([*shown, *padding])
    return Batch(
        image_BCHW=images.permute(0, 3, 1, 2),
        flip_B=torch.tensor([row.flip for _, row in rows]),
        hidden_BN=torch.from_numpy(np.stack([row.hidden_N for _, row in rows])),
        token_AL=token_CL,
        token_mask_AL=token_mask_CL,
        label_A=torch.zeros(len(token_CL), dtype=torch.int64),
        keys=[row.key for _, row in rows],
        captions=[*shown, *padding],
        lost=[],
    )
