"""Tables that were damaged on the way: each of 300 mutations of each file ends in values or in a sentence."""

import itertools
import random

import numpy as np
import pytest

from innerloop.errors import InnerloopError
from innerloop.workloads.tabular.tables import Table, label_texts, read

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

MUTATIONS = 300
ROWS = 20
VALUES = {
    "shop": [f"shop {i % 4}" for i in range(ROWS)],
    "size": [i / 3 for i in range(ROWS)],
    "bits": [[i, 2, 3] for i in range(ROWS)],
    "sold": [i % 3 == 0 for i in range(ROWS)],
    "id": list(range(ROWS)),
}


def parquet(path, **settings):
    pq.write_table(pa.table(VALUES), path, **settings)
    return path.read_bytes()


def separated(separator, encoding, decimal="."):
    cells = zip(VALUES["shop"], VALUES["size"], VALUES["sold"], strict=True)
    lines = [[f'"{shop}"', f"{size:.4f}".replace(".", decimal), str(sold)] for shop, size, sold in cells]
    return "\r\n".join(separator.join(line) for line in [["shop", "size", "sold"], *lines]).encode(encoding)


FILES = {
    "plain.parquet": lambda path: parquet(path, compression="none", use_dictionary=False),
    "snappy.parquet": lambda path: parquet(path, compression="snappy"),
    "pages.parquet": lambda path: parquet(path, compression="zstd", data_page_version="2.0", row_group_size=6),
    "checked.parquet": lambda path: parquet(path, compression="gzip", write_page_checksum=True),
    "comma.csv": lambda path: separated(",", "utf-8"),
    "german.csv": lambda path: separated(";", "cp1252", ","),
    "wide.csv": lambda path: separated("\t", "utf-16"),
}


def mutated(data, chance):
    """A file of which some bytes are others, are missing, occur twice or are cut off at the end."""
    data = bytearray(data)
    kind = chance.randrange(5)
    start = chance.randrange(len(data))
    end = min(start + chance.choice([1, 1, 2, 8, 64]), len(data))
    if kind == 0:
        data[start:end] = bytes(chance.randrange(256) for _ in range(end - start))
    elif kind == 1:
        data[start] ^= 1 << chance.randrange(8)
    elif kind == 2:
        del data[start:end]
    elif kind == 3:
        data[start:start] = data[start:end] * chance.choice([1, 20])
    else:
        del data[start:]
    return bytes(data)


def look(path):
    """Read all that can be read, and refuse nothing but in a sentence that names the file."""
    try:
        table = Table(path)
        columns = [column for column in table.columns.values() if column.kind != "other" and not column.problem]
        found = read(table, columns) if columns else {}
        for name, column in table.columns.items():
            if column.kind != "list" and not column.problem:
                assert label_texts(table, name).shape == (table.rows,)
    except InnerloopError as error:
        said = str(error)
        assert path.name in said
        assert "\n" not in said
        assert len(said.partition(path.name)[2]) > 15
        return False
    assert all(len(values) == table.rows for values in found.values())
    return True


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_table_is_read_or_refused_in_a_sentence(tmp_path, name):
    path = tmp_path / name
    whole = FILES[name](path)
    path.write_bytes(whole)
    assert look(path)
    chance = random.Random(name)
    outcomes = []
    for _ in itertools.repeat(None, MUTATIONS):
        path.write_bytes(mutated(whole, chance))
        outcomes.append(look(path))
    assert not np.all(outcomes)
