"""The lake: readers see whole artifacts only; hashes depend on what they should and on nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from rluf_assets.errors import ArtifactMissing, DataError
from rluf_assets.lake import Lake, Produced, content_hash, make_fingerprint, publish, read_artifact, write_json

FINGERPRINT = "f" * 64


def make(lake: Lake, text: str = "hello", partition: str | None = None) -> str:
    folder = lake.folder("signal_set", partition, FINGERPRINT)
    write_json(f"{folder}/rows.json", {"text": text})
    return folder


@pytest.fixture(params=["local", "memory"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake") if request.param == "local" else f"memory://{tmp_path}")


def test_a_folder_without_manifest_is_not_an_artifact(lake: Lake) -> None:
    folder = make(lake)
    assert read_artifact(folder) is None
    with pytest.raises(ArtifactMissing, match="signal_set: nothing published"):
        lake.current("signal_set")


def test_published_artifact_is_found_and_withdrawn(lake: Lake) -> None:
    artifact = publish(make(lake), fingerprint=FINGERPRINT, produced=Produced(rows={"train": 3}, metrics={"rate": 0.1}))
    lake.set_current("signal_set", None, artifact)
    found = lake.current("signal_set")
    assert (found.rows, found.metrics, found.fingerprint) == ({"train": 3}, {"rate": 0.1}, FINGERPRINT)
    assert lake.partitions("signal_set") == ["_"]
    lake.withdraw("signal_set")
    with pytest.raises(ArtifactMissing):
        lake.current("signal_set")


def test_pointer_to_a_removed_folder_names_the_remedy(lake: Lake) -> None:
    write_json(f"{lake.place('signal_set', None)}/current.json", {"folder": "gone"})
    with pytest.raises(ArtifactMissing, match=r"gone.*Materialise it again"):
        lake.current("signal_set")


def test_content_hash_sees_data_and_not_logs_or_pages(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "data.bin").write_bytes(b"abc")
    before = content_hash(str(tmp_path))
    (tmp_path / "logs" / "job.log").write_text("12:00")
    (tmp_path / "report.html").write_text("<p>today</p>")
    assert content_hash(str(tmp_path)) == before
    (tmp_path / "data.bin").write_bytes(b"abd")
    changed = content_hash(str(tmp_path))
    assert changed != before
    (tmp_path / "data.bin").rename(tmp_path / "other.bin")
    assert content_hash(str(tmp_path)) != changed


@pytest.mark.parametrize(
    "change",
    [{"version": "2"}, {"config": {"rate": 0.2}}, {"inputs": {"logs": "b"}}, {"seed": 1}],
    ids=lambda c: next(iter(c)),
)
def test_fingerprint_depends_on_everything_semantic(change: dict[str, object]) -> None:
    asked = {"version": "1", "config": {"rate": 0.1}, "inputs": {"logs": "a"}, "seed": 0}
    assert make_fingerprint(**asked) == make_fingerprint(**asked)  # type: ignore[arg-type]
    assert make_fingerprint(**asked) != make_fingerprint(**(asked | change))  # type: ignore[arg-type]


def test_corrupt_json_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    folder.mkdir()
    (folder / "manifest.json").write_text("{half")
    with pytest.raises(DataError, match=r"manifest\.json: expected JSON"):
        read_artifact(str(folder))


def test_nan_never_reaches_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        publish(str(tmp_path), fingerprint=FINGERPRINT, produced=Produced(metrics={"auroc": float("nan")}))
    assert read_artifact(str(tmp_path)) is None
