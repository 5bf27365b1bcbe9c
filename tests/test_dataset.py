"""From cases to batches: the cache, the order, and the shares of devices."""

from __future__ import annotations

import os
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture

import foveate.data.dataset as dataset
from foveate.data.cache import FileHashes, PreparedCache, cache_key
from foveate.data.dataset import (
    PreparedCases,
    batches_of,
    class_targets,
    epoch_order,
    sampling_weights,
)
from foveate.errors import InputRefused, UsageError
from foveate.files import default_cache_folder
from foveate.io.nifti import write_nifti
from foveate.io.reading import read_image
from foveate.parallel import read_ahead
from foveate.prepare.case import prepare_case
from foveate.prepare.preprocess import Preprocess
from foveate.study.settings import PreprocessConfig
from foveate.types import Case, Cohort, Geometry
from tiny_training import CLASSES, tiny_cohort, write_pictures
from tiny_volumes import write_volume

SIZE = Preprocess(PreprocessConfig(size=(16, 16)))
ENTRY_BYTES = 1 * 16 * 16 * 2 + 128 + 4  # grey float16, the header of .npy, the CRC


def prepared(
    cases: tuple[Case, ...], folder: Path, budget: int = 10**9, preprocess: Preprocess = SIZE
) -> PreparedCases:
    return PreparedCases(cases, ("image",), preprocess, PreparedCache(folder, budget))


def entries(folder: Path) -> list[Path]:
    return sorted((folder / "prepared").glob("??/*.npy"))


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file was decoded."""
    counts: Counter[str] = Counter()
    lock = threading.Lock()

    def counted(path: Path) -> object:
        with lock:
            counts[path.name] += 1
        return read_image(path)

    monkeypatch.setattr(dataset, "read_image", counted)
    return counts


def test_cached_and_fresh_batches_are_the_same_numbers(tmp_path: Path, readings: Counter[str]) -> None:
    cohort = tiny_cohort(tmp_path / "images")
    kept = prepared(cohort.cases, tmp_path / "cache")
    filled = kept.fill()
    assert (filled.found, filled.made, filled.without_room, filled.refused) == (0, 24, 0, ())
    readings.clear()
    batch = kept.batch([3, 0, 17])["image"]
    assert not readings
    fresh = torch.stack(
        [SIZE.prepare(read_image(cohort.cases[place].views["image"])).tensor for place in (3, 0, 17)]
    )
    assert batch.dtype == torch.float16 and torch.equal(batch, fresh)
    without_cache = PreparedCases(cohort.cases, ("image",), SIZE, None)
    assert without_cache.fill().without_room == 24
    assert torch.equal(without_cache.batch([3, 0, 17])["image"], fresh)


def test_a_second_run_decodes_nothing_and_another_preprocessing_or_picture_does(
    tmp_path: Path, readings: Counter[str]
) -> None:
    cohort = tiny_cohort(tmp_path / "images")
    prepared(cohort.cases, tmp_path / "cache").fill()
    readings.clear()
    assert prepared(cohort.cases, tmp_path / "cache").fill().found == 24
    assert not readings
    other = Preprocess(PreprocessConfig(size=(16, 16), colour="grey", keep_aspect=False))
    assert prepared(cohort.cases, tmp_path / "cache", preprocess=other).fill().made == 24
    changed = cohort.cases[5].views["image"]
    Picture.fromarray(np.zeros((32, 32), dtype=np.uint8)).save(changed)
    readings.clear()
    again = prepared(cohort.cases, tmp_path / "cache")
    assert (again.fill().made, readings) == (1, {changed.name: 1})
    assert float(again.batch([5])["image"].max()) == 0


def test_the_same_picture_under_another_name_is_not_decoded_again(tmp_path: Path) -> None:
    cohort = tiny_cohort(tmp_path / "images")
    prepared(cohort.cases, tmp_path / "cache").fill()
    copy = tmp_path / "copy.png"
    copy.write_bytes(cohort.cases[0].views["image"].read_bytes())
    assert prepared((Case("copy", "p", {"image": copy}),), tmp_path / "cache").fill().found == 1


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_entry_is_noticed_and_made_again(tmp_path: Path, damage: str) -> None:
    cohort = tiny_cohort(tmp_path / "images", count=3)
    first = prepared(cohort.cases, tmp_path / "cache")
    first.fill()
    sound = first.batch(range(3))["image"]
    for path in entries(tmp_path / "cache"):
        content = bytearray(path.read_bytes())
        content[-50] ^= 1
        path.write_bytes({"flip": bytes(content), "cut": bytes(content[:-40]), "empty": b""}[damage])
    again = prepared(cohort.cases, tmp_path / "cache")
    assert again.fill().made == 3
    assert torch.equal(again.batch(range(3))["image"], sound)


def test_an_entry_that_another_process_removed_is_decoded_instead(tmp_path: Path) -> None:
    cohort = tiny_cohort(tmp_path / "images", count=3)
    cases = prepared(cohort.cases, tmp_path / "cache")
    cases.fill()
    sound = cases.batch(range(3))["image"]
    entries(tmp_path / "cache")[0].unlink()
    entries(tmp_path / "cache")[0].write_bytes(b"")
    assert torch.equal(cases.batch(range(3))["image"], sound)


def test_the_budget_holds_and_what_found_no_room_is_said_and_still_served(tmp_path: Path) -> None:
    cohort = tiny_cohort(tmp_path / "images")
    budget = 10 * ENTRY_BYTES
    cases = prepared(cohort.cases, tmp_path / "cache", budget)
    filled = cases.fill()
    assert (filled.made, filled.without_room) == (10, 14)
    assert sum(path.stat().st_size for path in entries(tmp_path / "cache")) <= budget
    whole = PreparedCases(cohort.cases, ("image",), SIZE, None).batch(range(24))["image"]
    assert torch.equal(cases.batch(range(24))["image"], whole)


def test_what_was_unused_longest_goes_first_and_never_what_this_run_uses(tmp_path: Path) -> None:
    cohort = tiny_cohort(tmp_path / "images")
    folder, budget = tmp_path / "cache", 16 * ENTRY_BYTES
    old, recent, new = cohort.cases[:8], cohort.cases[8:12], cohort.cases[12:20]
    prepared(old + recent, folder, budget).fill()
    names = {case.case_id: key for case, key in zip(cohort.cases, keys_of(cohort, folder), strict=True)}
    for case in old:
        os.utime(folder / "prepared" / names[case.case_id][:2] / f"{names[case.case_id]}.npy", (1000, 1000))
    mixed = old[:2] + new  # two of the oldest are in use now
    assert prepared(mixed, folder, budget).fill().without_room == 0
    left = {path.stem for path in entries(folder)}
    assert {names[case.case_id] for case in mixed + recent} <= left
    assert len(left) < 20 - 3


def keys_of(cohort: Cohort, folder: Path) -> list[str]:
    hashes = FileHashes(folder / "none.json")
    return [cache_key(hashes.of(case.views["image"]), None, None, SIZE.key()) for case in cohort.cases]


def test_a_full_disk_only_costs_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("foveate.data.cache._replace", no_room)
    cohort = tiny_cohort(tmp_path / "images", count=3)
    cases = prepared(cohort.cases, tmp_path / "cache")
    assert cases.fill().without_room == 3
    assert cases.batch(range(3))["image"].shape == (3, 1, 16, 16)


def test_half_written_files_are_cleared_when_they_are_old(tmp_path: Path) -> None:
    folder = tmp_path / "prepared" / "ab"
    folder.mkdir(parents=True)
    for name, changed in ((".old.part", 1000), (".new.part", None)):
        (folder / name).write_bytes(b"x")
        if changed:
            os.utime(folder / name, (changed, changed))
    PreparedCache(tmp_path, 1000)
    assert [path.name for path in folder.iterdir()] == [".new.part"]


def test_file_hashes_are_remembered_until_the_file_changes(tmp_path: Path) -> None:
    file, index = tmp_path / "a", tmp_path / "index.json"
    file.write_bytes(b"one")
    hashes = FileHashes(index)
    first = hashes.of(file)
    hashes.save()
    stamp = file.stat().st_mtime_ns
    file.write_bytes(b"two")  # same size
    os.utime(file, ns=(stamp, stamp))
    assert FileHashes(index).of(file) == first  # size and time of change are what is compared
    os.utime(file, ns=(stamp + 1, stamp + 1))
    assert FileHashes(index).of(file) != first
    index.write_text("[1, 2")
    assert FileHashes(index).of(file) != first


def test_the_hash_of_a_folder_is_of_names_and_contents(tmp_path: Path) -> None:
    folder = tmp_path / "series"
    folder.mkdir()
    (folder / "1").write_bytes(b"one")
    seen = {FileHashes(tmp_path / "none").of(folder)}
    (folder / "1").rename(folder / "2")
    seen.add(FileHashes(tmp_path / "none").of(folder))
    (folder / "3").write_bytes(b"three")
    seen.add(FileHashes(tmp_path / "none").of(folder))
    assert len(seen) == 3


def test_the_cache_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path / "mine"))
    assert default_cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("FOVEATE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_folder() == tmp_path / "xdg" / "foveate"


def test_refused_cases_are_collected_and_the_rest_is_ready(tmp_path: Path) -> None:
    cohort = tiny_cohort(tmp_path / "images", count=6)
    cohort.cases[1].views["image"].write_text("not a picture")
    cohort.cases[4].views["image"].unlink()
    viewless = Case("viewless", "p", {"other": cohort.cases[0].views["image"]})
    filled = prepared((*cohort.cases, viewless), tmp_path / "cache").fill()
    assert [case.case_id for case, _ in filled.refused] == ["case01", "case04", "viewless"]
    assert filled.refused[2][1].code == "view-missing"
    assert filled.made == 4


def test_slices_of_one_volume_decode_it_once_and_the_organ_mask_is_part_of_the_key(
    tmp_path: Path, readings: Counter[str]
) -> None:
    volume, mask = tmp_path / "volume.nii.gz", tmp_path / "mask.nii.gz"
    geometry = Geometry((5, 20, 20), spacing=(1.0, 1.0, 1.0), affine=np.eye(4))
    pixels = np.arange(5 * 20 * 20, dtype=np.float32).reshape(5, 20, 20)
    organ = np.zeros((5, 20, 20), dtype=np.uint8)
    organ[:, 4:12, 6:14] = 1
    write_nifti(volume, pixels, geometry)
    write_nifti(mask, organ, geometry)
    cases = tuple(Case(f"s{z}", "p", {"image": volume}, organ_mask=mask, slice_index=z) for z in range(5))
    crop = Preprocess(PreprocessConfig(size=(16, 16), organ_crop=True, organ_margin=1))
    first = prepared(cases, tmp_path / "cache", preprocess=crop)
    assert first.fill().made == 5
    assert readings == {"volume.nii.gz": 1}
    before = first.batch(range(5))["image"]
    assert len({image.numpy().tobytes() for image in before}) == 5
    organ[:, 12:16, 6:14] = 1
    write_nifti(mask, organ, geometry)
    second = prepared(cases, tmp_path / "cache", preprocess=crop)
    assert second.fill().made == 5
    assert not torch.equal(second.batch(range(5))["image"], before)
    plain = prepared(cases, tmp_path / "cache")
    assert plain.fill().made == 5  # without the crop, the mask plays no part


def test_a_study_that_does_not_fit_the_images_is_told_at_once(tmp_path: Path) -> None:
    cohort = tiny_cohort(tmp_path / "images", count=2)
    with pytest.raises(UsageError, match="neighbouring slices"):
        prepared(
            cohort.cases, tmp_path / "cache", preprocess=Preprocess(PreprocessConfig(neighbours=1))
        ).fill()


def test_grey_and_colour_pictures_share_a_batch(tmp_path: Path) -> None:
    grey = write_pictures(tmp_path / "images", count=1)[0]
    colour = tmp_path / "colour.png"
    Picture.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(colour)
    cases = (Case("a", "a", {"image": grey}), Case("b", "b", {"image": colour}))
    batch = PreparedCases(cases, ("image",), SIZE, None).batch([0, 1])["image"]
    assert batch.shape == (2, 3, 16, 16)
    assert torch.equal(batch[0, 0], batch[0, 2]) and not torch.equal(batch[1, 0], batch[1, 2])


def test_missing_views_are_rows_of_nan_from_the_cache_and_fresh(tmp_path: Path) -> None:
    one, two, three = write_pictures(tmp_path / "images", count=3)
    colour = tmp_path / "colour.png"
    Picture.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(colour)
    cases = (
        Case("both", "a", {"ct": one, "t2": two}),
        Case("ct", "b", {"ct": colour}),
        Case("t2", "c", {"t2": three}),
        Case("none", "d", {"dwi": one}),
    )
    cache = PreparedCache(tmp_path / "cache", 10**9)
    kept = PreparedCases(cases, ("ct", "t2"), SIZE, cache, tolerant=True)
    filled = kept.fill()
    assert (filled.made, [case.case_id for case, _ in filled.refused]) == (3, ["none"])
    assert "at least one of the views ct, t2" in filled.refused[0][1].what
    usable = kept.part(cases[:3])
    again = PreparedCases(cases[:3], ("ct", "t2"), SIZE, cache, tolerant=True)
    assert (again.fill().found, usable.tolerant) == (3, True)
    batch = usable.batch([2, 0, 1])
    assert {name: tuple(view.shape) for name, view in batch.items()} == {
        "ct": (3, 3, 16, 16),
        "t2": (3, 1, 16, 16),
    }
    for name, absent in {"ct": [True, False, False], "t2": [False, False, True]}.items():
        gone = batch[name].flatten(1).isnan()
        assert gone.all(dim=1).tolist() == gone.any(dim=1).tolist() == absent
    assert torch.equal(batch["t2"][1], SIZE.prepare(read_image(two)).tensor)
    fresh = PreparedCases(cases[:3], ("ct", "t2"), SIZE, None, tolerant=True).batch([2, 0, 1])
    for name, view in batch.items():
        assert view.dtype == torch.float16
        np.testing.assert_array_equal(view, fresh[name])
    assert usable.batch([1, 1])["t2"].isnan().all()  # a batch in which nobody has it
    with pytest.raises(InputRefused, match="missing: t2"):
        PreparedCases(cases, ("ct", "t2"), SIZE, None).batch([1])


def test_volumes_of_any_shape_make_one_batch_and_views_differ_in_their_entries(tmp_path: Path) -> None:
    config = PreprocessConfig.model_validate(
        {"size": [4, 12, 12], "views": {"t2": {"percentiles": [0, 100], "organ_crop": True}}}
    )
    slab = Preprocess(config)
    values = np.random.default_rng(0).random((6, 20, 18)).astype(np.float32)
    file = write_volume(tmp_path / "a.nii.gz", values)
    other = write_volume(tmp_path / "b.nii.gz", values[:3, :10])
    organ = np.zeros(values.shape, np.uint8)
    organ[2:5, 4:12, 4:12] = 1
    mask = write_volume(tmp_path / "organ.nii.gz", organ)
    cases = (
        Case("a", "a", {"ct": file, "t2": file}, organ_mask=mask),
        Case("b", "b", {"ct": other}),
    )
    cache = PreparedCache(tmp_path / "cache", 10**9)
    kept = PreparedCases(cases, ("ct", "t2"), slab, cache, tolerant=True)
    assert kept.fill().made == 2
    assert len(entries(tmp_path / "cache")) == 3  # one file, prepared in two ways
    batch = kept.batch([0, 1])
    assert batch["ct"].shape == batch["t2"].shape == (2, 1, 4, 12, 12)
    assert torch.equal(batch["ct"][0], slab.prepare(read_image(file), view="ct").tensor)
    cropped = slab.prepare(read_image(file), view="t2", organ_mask=organ.astype(bool)).tensor
    assert torch.equal(batch["t2"][0], cropped) and not torch.equal(batch["ct"][0], cropped)
    organ[1] = organ[2]
    write_volume(mask, organ)
    again = PreparedCases(cases, ("ct", "t2"), slab, cache, tolerant=True)
    again.fill()
    assert len(entries(tmp_path / "cache")) == 4  # the mask is part of the name where it plays a part


def test_prepare_case_reads_every_view_and_names_what_is_refused(tmp_path: Path) -> None:
    one, two = write_pictures(tmp_path / "images", count=2)
    found = prepare_case(Case("a", "a", {"ct": one, "t2": two}), SIZE)
    assert list(found) == ["ct", "t2"]
    assert torch.equal(found["t2"].tensor, SIZE.prepare(read_image(two)).tensor)
    with pytest.raises(InputRefused):
        prepare_case(Case("a", "a", {"ct": tmp_path / "absent.png"}), SIZE)


def test_the_order_is_a_permutation_that_only_seed_and_epoch_decide() -> None:
    first = epoch_order(50, seed=1, epoch=2)
    np.random.seed(3)
    assert np.array_equal(first, epoch_order(50, seed=1, epoch=2))
    assert sorted(first) == list(range(50))
    for seed, epoch in ((1, 3), (2, 2), (2, 1)):
        assert not np.array_equal(first, epoch_order(50, seed=seed, epoch=epoch))


def test_the_sampler_draws_classes_equally_often() -> None:
    truth = np.eye(3)[np.repeat([0, 1, 2], [900, 90, 10])]
    weights = sampling_weights(truth)
    assert weights.sum() == pytest.approx(1)
    assert weights[truth[:, 2] == 1].sum() == pytest.approx(1 / 3)
    drawn = truth[np.concatenate([epoch_order(1000, 0, epoch, weights) for epoch in range(5)])]
    assert drawn.mean(axis=0) == pytest.approx([1 / 3] * 3, abs=0.03)


def test_the_sampler_weighs_a_multilabel_case_by_its_rarest_finding() -> None:
    truth = np.array([[1, 0], [1, 1], [1, np.nan], [0, 0], [np.nan, 0]])
    by_hand = np.array([1 / 3, 1, 1 / 3, 1 / 2, 1 / 2])  # 3 of the first finding, 1 of the second, 2 of none
    assert sampling_weights(truth) == pytest.approx(by_hand / by_hand.sum())


@pytest.mark.parametrize(
    ("count", "size", "world"), [(33, 32, 1), (10, 4, 1), (10, 4, 2), (7, 3, 3), (1, 8, 2), (64, 16, 4)]
)
def test_batches_cover_every_place_evenly_among_batches_and_devices(
    count: int, size: int, world: int
) -> None:
    shares = [batches_of(count, size, rank=rank, world=world) for rank in range(world)]
    lengths = [len(batch) for share in shares for batch in share]
    assert max(lengths) <= size and max(lengths) - min(lengths) <= 1
    assert len({len(share) for share in shares}) == 1
    seen = Counter(int(place) for share in shares for batch in share for place in batch)
    assert set(seen) == set(range(count))
    assert sum(seen.values()) == -(-count // world) * world
    # in the order of places when the shares are dealt out in turn, which is how scores are gathered
    dealt = np.stack([np.concatenate(share) for share in shares], axis=1).reshape(-1)[:count]
    assert np.array_equal(dealt, np.arange(count))


def test_targets_are_what_a_criterion_takes(tmp_path: Path) -> None:
    cohort = tiny_cohort(tmp_path / "images", count=4)
    assert class_targets(cohort, cohort.cases).tolist() == [0, 1, 2, 0]
    findings = (
        Case("a", "a", {}, findings={"x": 1, "y": None}),
        Case("b", "b", {}, findings={"x": 0, "y": 1}),
    )
    multilabel = Cohort(findings, "multilabel", ("x", "y"), ("image",), tmp_path, "")
    found = class_targets(multilabel, findings)
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), [[1, np.nan], [0, 1]])
    assert cohort.classes == CLASSES


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_reading_ahead_keeps_the_order_and_passes_errors_on(threads: int) -> None:
    assert list(read_ahead(lambda item: item * 2, range(20), threads)) == [item * 2 for item in range(20)]

    def fails_at_five(item: int) -> int:
        if item == 5:
            raise ValueError("five")
        return item

    seen = []
    with pytest.raises(ValueError, match="five"):
        for item in read_ahead(fails_at_five, range(20), threads):
            seen.append(item)
    assert seen == list(range(5))


def test_reading_ahead_stays_a_few_items_ahead() -> None:
    started = []
    stream = read_ahead(started.append, range(1000), 2)
    next(stream)
    stream.close()
    assert len(started) <= 5
