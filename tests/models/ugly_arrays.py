"""Arrays and foreign formats."""

from __future__ import annotations

import struct
import wave

import numpy as np
from ugly_world import Case, Truth, World, kind, two_pumps

__all__: list[str] = []


@kind
def npz_of_machines(folder, rng):
    a, b, truth = two_pumps(rng)
    np.savez(
        folder / "x.npz", **{"pump-1": a.rows, "pump-2": b.rows}, feature_names=a.names, sample_rate=50.0
    )
    truth.times, truth.rate = None, 50.0
    return Case(path=folder / "x.npz", must="understood", truth=truth)


@kind
def npz_of_vectors(folder, rng):
    w = World(rng)
    np.savez(folder / "x.npz", time=w.times, **dict(zip(w.names, w.rows.T, strict=True)))
    return Case(path=folder / "x.npz", must="understood", truth=w.truth())


@kind
def vibration_and_its_rate(folder, rng):
    v = rng.normal(0, 1, 4000)
    np.savez(folder / "x.npz", vibration=v, fs=12_800)
    return Case(
        path=folder / "x.npz",
        must="understood",
        truth=Truth(sensors=["vibration"], machines={"x": v[:, None]}, rate=12_800.0),
    )


@kind
def wav_of_16_bits(folder, rng):
    v = rng.integers(-30_000, 30_000, (3000, 2))
    with wave.open(str(folder / "x.wav"), "wb") as file:
        file.setparams((2, 2, 48_000, 3000, "NONE", ""))
        file.writeframes(v.astype("<i2").tobytes())
    return Case(
        path=folder / "x.wav",
        must="understood",
        truth=Truth(sensors=["channel 1", "channel 2"], machines={"x": v / 32768}, rate=48_000.0),
    )


@kind
def wav_of_24_bits(folder, rng):
    v = rng.integers(-8_000_000, 8_000_000, 2000)
    with wave.open(str(folder / "x.wav"), "wb") as file:
        file.setparams((1, 3, 25_600, 2000, "NONE", ""))
        file.writeframes(b"".join(struct.pack("<i", x)[:3] for x in v.tolist()))
    return Case(
        path=folder / "x.wav",
        must="understood",
        truth=Truth(sensors=["vibration"], machines={"x": (v / (1 << 23))[:, None]}, rate=25_600.0),
    )


def _foreign(folder, name, content, says):
    path = folder / name
    path.write_bytes(content)
    return Case(path=path, must="refused", says=says)


@kind
def hdf5(folder, rng):
    return _foreign(folder, "x.h5", b"\x89HDF\r\n\x1a\n" + rng.bytes(300), "read_hdf")


@kind
def tdms(folder, rng):
    return _foreign(folder, "x.tdms", b"TDSm" + rng.bytes(300), "nptdms")


@kind
def matlab(folder, rng):
    return _foreign(folder, "x.mat", b"MATLAB 5.0 MAT-file" + rng.bytes(300), "loadmat")


@kind
def workbook(folder, rng):
    return _foreign(folder, "x.xlsx", b"PK\x03\x04" + rng.bytes(300), "read_excel")


@kind
def workbook_called_csv(folder, rng):
    return _foreign(folder, "x.csv", b"PK\x03\x04" + rng.bytes(300), "unzip")


@kind
def packed(folder, rng):
    return _foreign(folder, "x.csv.gz", b"\x1f\x8b\x08" + rng.bytes(300), "gunzip")


@kind
def json_called_csv(folder, rng):
    return _foreign(folder, "x.csv", b'{"rows": [1, 2, 3]}\n', "JSON")


@kind
def a_web_page(folder, rng):
    return _foreign(folder, "x.csv", b"<!DOCTYPE html>\n<html><body>login</body></html>\n", "markup")


@kind
def an_empty_file(folder, rng):
    return _foreign(folder, "x.csv", b"", "empty")


@kind
def a_header_alone(folder, rng):
    return _foreign(folder, "x.csv", b"time,temp,pressure\n", "numbers")


@kind
def prose(folder, rng):
    return _foreign(folder, "x.txt", b"Dear colleague,\nthe pump was loud on Monday.\nPlease call me.\n", "")


@kind
def noise(folder, rng):
    return _foreign(folder, "x.csv", rng.bytes(5000), "")


@kind
def parquet(folder, rng):
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:  # on a device
        return _foreign(folder, "x.parquet", b"PAR1" + rng.bytes(300), "fedge[export]")

    w = World(rng)
    columns = {
        "time": [x.replace(tzinfo=None) for x in w.when],
        **dict(zip(w.names, w.rows.T, strict=True)),
        "mode": ["auto"] * w.n,
    }
    pq.write_table(pa.table(columns), folder / "x.parquet")
    return Case(path=folder / "x.parquet", must="understood", truth=w.truth())
