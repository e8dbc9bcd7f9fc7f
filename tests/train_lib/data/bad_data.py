"""Data that cannot be used, of every kind of file, and what is said of them.

Each case is: what is wrong, the name of the file or folder, its content (text, bytes, a function
that writes it, or None where it is not there), fields of `config.data`, and words of the message.
"""

import gzip

import numpy as np

TABLE = [f"text {number},{'ab'[number % 2]}" for number in range(20)]
JSONL = [f'{{"text": "text {number}", "label": "{"ab"[number % 2]}"}}' for number in range(20)]
CONLL = "good JJ B\nfilm NN O\n\n" * 10
SERIES = "@problemName x\n@classLabel true a b\n@data\n" + "1,2:3,4:a\n5,6:7,8:b\n" * 10


def csv(*rows, header="text,label", good=TABLE):
    return "\n".join([header, *good, *rows]) + "\n"


def jsonl(*rows, good=JSONL):
    return "\n".join([*good, *rows]) + "\n"


def parquet(**columns):
    def write(path):
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table(columns), path)

    return write


def npz(**arrays):
    return lambda path: np.savez(path, **arrays)


def folder(*names, **contents):
    def write(path):
        for name in [*names, *contents]:
            one = path / name.replace("__", "/").replace("_dot_", ".")
            one.parent.mkdir(parents=True, exist_ok=True)
            content = contents.get(name, "text")
            one.write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


ONES = {"values": np.ones((20, 3)), "lengths": np.full(10, 2), "targets": [0, 1] * 5}
TEXTS = {"text": ["a"] * 20, "label": ["x", "y"] * 10}
FRENCH = "très drôle, un film génial"

CASES = [
    # Empty, missing, of another kind.
    ("empty", "x.csv", "", {}, "x.csv is empty"),
    ("empty", "x.tsv", "", {}, "x.tsv is empty"),
    ("empty", "x.jsonl", "", {}, "x.jsonl is empty"),
    ("empty", "x.parquet", "", {}, "x.parquet is empty"),
    ("empty", "x.npz", "", {}, "x.npz is empty"),
    ("empty", "x.ts", "", {}, "x.ts is empty"),
    ("empty", "x.conll", "", {}, "x.conll is empty"),
    ("a mark alone", "x.jsonl", "\ufeff", {}, "x.jsonl is empty"),
    ("blank", "x.csv", "\n\n", {}, "first line must have the names of the columns"),
    ("blank", "x.jsonl", "\n\n", {}, "x.jsonl is empty"),
    ("blank", "x.conll", "\n \n", {}, "x.conll has no tokens"),
    ("header only", "x.csv", "text,label\n", {}, "x.csv has no rows below the names of"),
    ("header only", "x.tsv", "text\tlabel", {}, "x.tsv has no rows below the names of its"),
    ("header only", "x.ts", SERIES.partition("1,2")[0], {}, "x.ts has no cases below a line @data"),
    ("no rows", "x.parquet", parquet(text=[], label=[]), {}, "x.parquet has no rows"),
    ("missing", "x.csv", None, {}, "x.csv: there is no such file"),
    ("missing", "x", None, {}, "is not known"),
    ("a folder in its place", "x.csv", folder("mine"), {}, "x.csv is a folder with no data that"),
    ("nothing in it", "x", folder("readme.md"), {}, "x is a folder with no data that can be read"),
    ("of another kind", "x.xlsx", "?", {}, "x.xlsx is not of a kind that can be read. A source"),
    ("two kinds", "x", folder(train_dot_csv=csv(), test_dot_bio=CONLL), {}, "of several kinds"),
    ("two for a split", "x", folder(train_dot_csv=csv(), val_dot_csv=csv(), dev_dot_csv=csv()), {},
     "x has dev.csv and val.csv for the validation split; keep only one"),
    ("an empty split", "x", folder(train_dot_csv=csv(), test_dot_csv=""), {}, "test.csv is empty"),
    ("no training split", "x", folder(test_dot_csv=csv()), {}, "x has no split to train on"),
    # Columns.
    ("no such column", "x.csv", csv(), {"target_column": "stars"},
     "x.csv has no column 'stars'; those it has: text, label"),
    ("no such column", "x.jsonl", jsonl(), {"text_column": "review"},
     "x.jsonl has no column 'review'; those it has: text, label"),
    ("no such column", "x.parquet", parquet(**TEXTS), {"group_column": "author"},
     "x.parquet has no column 'author'; those it has: text, label"),
    ("no such column", "x.conll", CONLL, {"target_column": "7"}, "x.conll, line 1 has no column 7"),
    ("a name of a column", "x.conll", CONLL, {"target_column": "tag"}, "give the number of one"),
    ("not in this split", "x",
     folder(train_dot_csv=csv(), test_dot_csv=csv(header="text,stars")), {},
     "x/test.csv has no column 'label'; those it has: text, stars"),
    ("nothing to guess", "x.csv", csv(header="a,b"), {},
     "name the column with config.data.text_column; the columns are: a, b"),
    ("nothing to guess", "x.csv", "text,a,b\nx,1,2\n", {},
     "name the column with config.data.target_column; the columns are: text, a, b"),
    ("two of a name", "x.csv", csv(header="text,text"), {}, "line 1: two columns are called"),
    ("two of a name", "x.jsonl", jsonl('{"text": "a", "text": "b", "label": "a"}'), {},
     "line 21 is not JSON: 'text' is in it twice"),
    # Rows.
    ("a field too few", "x.csv", csv("alone"), {},
     "x.csv, line 22 has 1 field, and 2 are expected"),
    ("a field too many", "x.csv", csv("a,b,c"), {},
     "x.csv, line 22 has 3 fields, and 2 are expected"),
    ("a field too few", "x.jsonl", jsonl('{"text": "a"}'), {},
     "x.jsonl, line 21 has no field 'label'; those it has: text"),
    ("nothing in it", "x.csv", csv(",a"), {}, "x.csv, line 22: there is nothing in column 'text'"),
    ("nothing in it", "x.csv", csv("a, "), {}, "line 22: there is nothing in column 'label'"),
    ("null", "x.jsonl", jsonl('{"text": null, "label": "a"}'), {},
     "x.jsonl, line 21: there is nothing in column 'text'"),
    ("null", "x.jsonl", jsonl('{"text": "a", "label": null}'), {},
     "x.jsonl, line 21: there is nothing in column 'label'"),
    ("null", "x.parquet", parquet(text=["a", None], label=["x", "y"]), {},
     "x.parquet, row 1: there is nothing in column 'text'"),
    ("blank line", "x.csv", csv("", "a,b"), {}, "x.csv, line 22 is blank, but rows follow it"),
    ("blank line", "x.jsonl", jsonl("", JSONL[0]), {}, "x.jsonl, line 21 is blank"),
    ("open quotation", "x.csv", csv('"a,b', "c,a"), {},
     "x.csv, line 22: a quotation mark opens a field and none closes it"),
    ("open quotation", "x.csv", csv('"a,b', '"c",a'), {}, "line 22: it is not a row of a table"),
    ("open quotation", "x.tsv", 'text\tlabel\n"Oh\ta\n', {}, 'source_options="quotes=False"'),
    ("cut", "x.jsonl", jsonl('{"text": "a", "la'), {}, "x.jsonl, line 21 is not JSON"),
    ("no object", "x.jsonl", jsonl('["a", "b"]'), {}, "and must be an object, as in"),
    ("an array of all", "x.jsonl", '[\n{"text": "a"}\n]', {}, "x.jsonl, line 1 is not JSON"),
    ("the same id", "x.csv", "id,text,label\n7,a,x\n8,b,y\n7,c,x\n", {},
     "x.csv, line 4: the id '7' is that of line 2 too"),
    ("the same id", "x.jsonl", jsonl(*JSONL[:1]), {"id_column": "text", "text_column": "text"},
     "x.jsonl, line 21: the text 'text 0' is that of line 1 too"),
    # Targets.
    ("no number", "x.csv", csv("a,3", "b,n/a", good=["x,1"] * 9), {},
     "x.csv, line 12: 'n/a' in column 'label' is not a number, as 10 of 11 there are"),
    ("no number", "x.csv", "text,a,b\nx,1,2\ny,3,?\n", {"target_column": "a,b"},
     "x.csv, line 3: '?' in column 'b' is not a number"),
    ("no number", "x.parquet", parquet(text=["a", "b"], label=[0.5, float("nan")]), {},
     "x.parquet, row 1: the target nan is not a number"),
    ("mixed", "x.jsonl", jsonl('{"text": "a", "label": 1}'), {},
     "x.jsonl, line 21: the target 1 in column 'label' is a number, but that of the first row is "
     "a text"),
    ("an object", "x.jsonl", '{"text": "a", "label": {"b": 1}}\n', {},
     'x.jsonl, line 1: the target {"b": 1} in column'),
    ("a class that training lacks", "x",
     folder(train_dot_csv=csv(), test_dot_csv=csv("a,c")), {},
     "x/test.csv, line 22: the target is the class 'c', which no training example has"),
    ("a class that training lacks", "x",
     folder("train/a/1.txt", "train/a/2.txt", "train/b/1.txt", "test/c/5.txt"), {},
     "x/test/c/5.txt: the target is the class 'c', which no training example has"),
    # Words and their tags.
    ("a column too few", "x.conll", CONLL + "alone\n", {},
     "x.conll, line 31 has 1 columns and must have 3"),
    ("no tag", "x.bio", "good\nfilm\n", {}, "x.bio, line 1 has one column; a word and its tag"),
    ("an empty tag", "x.conll", "good\tB\nfilm\t\n", {}, "x.conll, line 2: column 2 is empty"),
    ("words and tags", "x.jsonl", '{"tokens": ["a", 1], "tags": ["x", "y"]}\n', {},
     "x.jsonl, line 1: [\"a\", 1] in column 'tokens' is neither a text nor a list of"),
    ("no words", "x.jsonl", '{"tokens": [], "tags": []}\n', {}, "[] in column 'tokens' is neither"),
    # Numbers that go in.
    ("widths", "x.jsonl", '{"values": [[1, 2], [3]], "y": 1}\n', {}, "line 1: vectors in column"),
    ("widths", "x.ts", SERIES + "1,2:a\n", {}, "x.ts, line 24 has 1 dimensions and the first case"),
    ("lengths", "x.ts", SERIES + "1,2:3:a\n", {}, "line 24: its dimensions are of several lengths"),
    ("a value is missing", "x.ts", SERIES + "1,?:3,4:a\n", {}, "line 24: a value is missing (?)"),
    ("no number", "x.ts", SERIES + "1,x:3,4:a\n", {}, "x.ts, line 24: 'x' is not a number"),
    ("NaN", "x.ts", SERIES + "1,NaN:3,4:a\n", {}, "x.ts, line 24: 'NaN' is not a number"),
    ("another class", "x.ts", SERIES + "1,2:3,4:c\n", {}, "line 24: the class 'c' is not one of"),
    ("no target", "x.ts", SERIES + "a\n", {}, "line 24 has no dimension before its target"),
    ("no number", "x.ts", SERIES.replace("classLabel true a b", "targetlabel true"), {},
     "x.ts, line 4: 'a' is not a number"),
    ("time stamps", "x.ts", "@timeStamps true\n" + SERIES, {}, "line 1: series with time stamps"),
    ("no header", "x.ts", "1,2:a\n", {}, "x.ts, line 1: there are values before @data"),
    ("NaN", "x.npz", npz(**ONES | {"values": np.full((20, 3), np.nan)}), {},
     "the vector of step 0 has a number that is NaN"),
    ("no such array", "x.npz", npz(values=np.ones((4, 3))), {}, "no array targets; those it has"),
    ("arrays too many", "x.npz", npz(**ONES, more=[1]), {}, "arrays that are not read: more"),
    ("lengths", "x.npz", npz(**ONES | {"lengths": np.full(10, 3)}), {},
     "lengths add up to 30 steps, and there are 20 in values"),
    ("lengths", "x.npz", npz(**ONES | {"lengths": np.array([0, 2] * 5)}), {},
     "x.npz, example 0: the length is 0"),
    ("targets", "x.npz", npz(**ONES | {"targets": [0, 1]}), {}, "targets are [2], and there are"),
    ("texts", "x.npz", npz(**ONES | {"values": np.array(["a"] * 20)}), {}, "must be numbers"),
    ("one array", "x.npz", lambda path: np.save(path.open("wb"), np.ones(3)), {}, "a single array"),
    ("objects", "x.npz",
     npz(values=np.array([[1], [2, 3]], object), targets=[0, 1]), {}, "array of Python objects"),
    ("below 0", "x.npz", npz(values=np.array([[1, -2]] * 20), targets=[0, 1] * 10), {},
     "token -2 is below 0"),
    # Damage.
    ("cut", "x.npz", b"PK\x03\x04 and no more", {}, "x.npz cannot be read as .npz"),
    ("no archive", "x.npz", "text", {}, "x.npz cannot be read as .npz"),
    ("no Parquet", "x.parquet", "text", {}, "x.parquet cannot be read as Parquet"),
    ("compressed", "x.csv", gzip.compress(b"text\n", mtime=0), {}, "x.csv, line 1 is not UTF"),
    # Encodings.
    ("UTF-16", "x.csv", csv().encode("utf-16"), {}, "is in UTF-16"),
    ("UTF-16", "x.jsonl", jsonl().encode("utf-16-le"), {}, "is in UTF-16"),
    ("Latin", "x.csv", csv(*[f'"{FRENCH}",a'] * 9).encode("cp1252"), {},
     "x.csv, line 22 is not UTF-8; if it is text, it is probably in an older encoding"),
    ("Latin", "x.conll", (CONLL + "drôle JJ B\n" * 50).encode("cp1252"), {},
     "x.conll, line 31 is not UTF-8"),
    ("Latin", "x", folder("a/1.txt", a__2_dot_txt=FRENCH.encode("cp1252")), {},
     "x/a/2.txt is not UTF-8"),
    # Folders of texts.
    ("empty", "x", folder("a/1.txt", a__2_dot_txt=" \n"), {}, "x/a/2.txt is empty"),
    ("no text", "x", folder("a/1.txt", "a/2.docx"), {}, "x/a/2.docx is not a .txt file"),
    ("two for a split", "x", folder("train/a/1.txt", "val/a/1.txt", "dev/a/1.txt"), {},
     "has dev and val for the validation split"),
    # Sources of other kinds, and options.
    ("not prepared", "tfds:nothing", None, {}, "tfds:nothing is not prepared in"),
    ("no name", "tfds:", None, {}, "must be a name, as in tfds:imdb_reviews"),
    ("leads out", "tfds:../x", None, {}, "must be a name, as in tfds:imdb_reviews"),
    ("an option", "x.csv", csv(), {"target_is": "class"}, "target_is = 'class' must be 'text' or"),
]  # fmt: skip


def write(path, content):
    if callable(content):
        content(path)
    elif content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
