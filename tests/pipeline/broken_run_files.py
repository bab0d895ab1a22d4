"""Run files that must be refused, and what the refusal says of key, value and mend."""

GOOD = {"run": "y", "dataset": "{name: bazaar}", "preset": "gmc_tiny"}


def text(more="", **changed):
    """A run file with some keys changed (None: left out) and more lines at its end."""
    keys = {key: value for key, value in (GOOD | changed).items() if value is not None}
    return "".join(f"{key}: {value}\n" for key, value in keys.items()) + more


_BOMB = "a: &a [x,x,x,x,x,x,x,x,x], " + ", ".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]"
    for before, name in zip("abcdef", "bcdefg", strict=True)
)
_WIDE = ", ".join(f"k{number}: 1" for number in range(90))
_MERGES = f"x-a: &a {{{_WIDE}}}\nx-b: &b {{<<: [{','.join(['*a'] * 120)}]}}\n"

# Each came up in practice, or is of the kind of one that did.
BROKEN = {
    "deep": (
        text(overrides="[" * 3000 + "]" * 3000),
        ["line 4", "nested more than 20 levels", "nest them less"],
    ),
    "bomb": (text(overrides=f"{{{_BOMB}}}"), ["6,053,449 values", "at most 10,000", "remove some"]),
    "merge bomb": (_MERGES + text(), ["line 2", "merges of too many keys", "write them out"]),
    "many aliases": (
        text(f"x-a: &a 1\nx-b: [{','.join(['*a'] * 300)}]\n"),
        ["line 5", "more than 200 aliases"],
    ),
    "many values": (text(overrides=f"{{a: [{','.join('1' * 15_000)}]}}"), ["15,00", "at most 10,000"]),
    "huge file": (text("# " + "x" * 70_000), ["70,", "the limit is 65,536"]),
    "recursive": (
        text(dataset="&d {name: bazaar, self: *d}"),
        ["line 2", "contains itself", "without the alias"],
    ),
    "unhashable key": (text("? [a, b]\n: 1\n"), ["line 4", "the key ['a', 'b'] is not text", "write text"]),
    "key that is a number": (
        text(dataset="{name: bazaar, 5: 1}"),
        ["error: broken.yaml: line 2: the key 5 is not text; write text, in quotes"],
    ),
    "keys that are no texts": (
        text(overrides="{1.5: 1, tokenizer: {null: 1}, 2020-01-01: {true: 2}}"),
        ["3 errors", "the key 1.5 is", "the key None is", "the key datetime.date(2020, 1, 1) is"],
    ),
    "key twice": (text("preset: gmc\n"), ["line 4", "'preset' is given twice", "leave one out"]),
    "inner key twice": (text(dataset="{name: bazaar, items: 300, items: 400}"), ["'items' is given twice"]),
    "merge of a list": (text("x-a: &a [1]\noverrides: {<<: *a}\n"), ["expected a mapping for merging"]),
    "long run": (text(run="a" * 300), ["run is 'aaa", "at most 100 characters", "has 300", "shorten it"]),
    "run cache": (text(run="cache"), ["run is 'cache'", "reserved", "choose another"]),
    "run path": (text(run="../x"), ["run is '../x'", "only letters, digits"]),
    "run device": (text(run="con.log"), ["run is 'con.log'", "reserved"]),
    "run number": (text(run="5"), ["run is 5", "expected text"]),
    "run missing": (text(run=None), ["'run' is missing", "run, dataset and preset are required"]),
    "huge seed": (text(seed="99999999999999999999999999"), ["seed is 99999", "0 to 4,294,967,295"]),
    "seed of 5000 digits": (text(seed="9" * 5000), ["line 4", "'999", "5,000 digits", "write a smaller"]),
    "negative seed": (text(seed="-1"), ["seed is -1", "0 to 4,294,967,295"]),
    "seed in quotes": (text(seed='"1"'), ["seed is '1'", "without quotes"]),
    "seed is true": (text(seed="true"), ["seed is True", "expected a whole number"]),
    "octal seed": (text(seed="010"), ["line 4", "'010'", "reads it as 8", "in quotes"]),
    "sexagesimal": (text(overrides="{a: 12:30}"), ["'12:30'", "reads it as 750", "in quotes"]),
    "no such day": (
        text(overrides="{a: 2020-13-45}"),
        ["'2020-13-45' cannot be used", "month must be in 1..12"],
    ),
    "not a number": (
        text(overrides="{tokenizer.levels: .nan}"),
        ["overrides.tokenizer.levels is nan", "finite"],
    ),
    "inner huge number": (text(overrides=f"{{a: {10**30}}}"), ["overrides.a is 1000", "at most 9,223,372"]),
    "python tag": (text(overrides="!!python/object/apply:os.system [ls]"), ["line 4", "could not determine"]),
    "unknown alias": (text(overrides="{a: *nope}"), ["line 4", "undefined alias 'nope'"]),
    "two documents": (text("---\nrun: z\n"), ["line 4", "another document"]),
    "tab": (text("overrides:\n\ta: 1\n"), ["line 5", "not valid YAML"]),
    "zero byte": (text("overrides: {a: \0}\n"), ["not valid YAML", "#x0000"]),
    "unknown key": (text("sed: 1\n"), ["'sed' is unknown (did you mean 'seed'?)", "begin with x-"]),
    "base": (text("base: /tmp\n"), ["'base' is unknown"]),
    "no mapping": ("- a\n", ["holds no keys", "write at least run, dataset and preset"]),
    "dataset is a text": (text(dataset="bazaar"), ["dataset is 'bazaar'", "as {name: bazaar}"]),
    "dataset without name": (text(dataset="{items: 300}"), ["dataset is {'items': 300}", "lacks a name"]),
    "unknown dataset": (text(dataset="{name: bazar}"), ["dataset.name is 'bazar' (did you mean 'bazaar'?)"]),
    "unknown option": (
        text(dataset="{name: bazaar, itemz: 300}"),
        ["dataset.itemz is unknown (did you mean 'items'?)"],
    ),
    "number in quotes": (
        text(dataset='{name: bazaar, items: "300"}'),
        ["dataset.items is '300'", "without quotes"],
    ),
    "negative items": (text(dataset="{name: bazaar, items: -5}"), ["dataset.items is -5", "at least 300"]),
    "too many items": (
        text(dataset="{name: bazaar, items: 2000000}"),
        ["dataset.items is 2000000", "at most 1,000,000"],
    ),
    "unknown shop": (
        text(dataset="{name: bazaar, domains: [Gardn]}"),
        ["dataset.domains is ['Gardn']", "'Garden'"],
    ),
    "missing folder": (
        text(dataset="{name: lcrec, domains: {A: /nonexistent/x}}"),
        ["dataset.domains.A.folder: /nonexistent/x is not there", "give the folder"],
    ),
    "unset variable": (
        text(dataset='{name: lcrec, domains: {A: "${GENREC_NOPE}/x"}}'),
        ["dataset.domains.A", "'${GENREC_NOPE}/x'", "GENREC_NOPE, which is not set", "export"],
    ),
    "folder without its files": (
        text(dataset="{name: lcrec, folder: empty}"),
        ["no *.inter.json in", "empty"],
    ),
    "lacking option": (text(dataset="{name: frames}"), ["dataset lacks interactions", "add interactions"]),
    "missing table": (
        text(dataset="{name: frames, interactions: none.csv}"),
        ["dataset.interactions", "none.csv"],
    ),
    "wrong type of option": (
        text(dataset="{name: lcrec, folder: 5, k_core: two}"),
        ["k_core is 'two'", "folder is 5"],
    ),
    "domain average": (
        text(dataset="{name: frames, domain: average, interactions: data/inter.csv}"),
        ["a domain cannot be called average", "rename it"],
    ),
    "domains alike": (
        text(dataset="{name: lcrec, domains: {A: empty, a: empty}}"),
        ["the same folder on some disks"],
    ),
    "no domains": (
        text(dataset="{name: lcrec, domains: {}}"),
        ["dataset.domains is {}", "at least one domain"],
    ),
    "world among domains": (
        text(dataset="{name: lcrec, domains: {A: {name: bazaar}}}"),
        ["dataset.domains.A: bazaar makes its domains itself", "load it alone"],
    ),
    "module that fails": (
        text(dataset="{name: 'broken.py:read'}"),
        ["broken.py cannot be imported", "on purpose"],
    ),
    "unknown notebook": (text(notebooks="[02_tokeniser_training]"), ["did you mean '02_tokenizer_training'"]),
    "octal notebooks": (text(notebooks="[01, 02]"), ["'01' cannot be used", "'02' cannot be used"]),
    "no notebooks": (text(notebooks="[]"), ["notebooks is []", "expected a list of names"]),
    "unset variable in overrides": (
        text(overrides='{reference_codes: "${GENREC_NOPE}"}'),
        ["overrides.reference_codes is '${GENREC_NOPE}'", "GENREC_NOPE is not set"],
    ),
    "unknown preset": (text(preset="gmc_tyni"), ["'gmc_tyni' (did you mean 'gmc_tiny'?)"]),
}

# These import the methods first, for what they name is theirs.
BROKEN_CONFIGS = {
    "unknown override": (
        text(overrides="{tokenizer.lvels: 3}"),
        ["'tokenizer.lvels' is unknown (did you mean 'levels'?)"],
    ),
    "impossible override": (
        text(overrides="{tokenizer.levels: three}"),
        ["tokenizer.levels = 'three'", "integer"],
    ),
    "unknown row": (
        text(overrides="{compare: [sasrek]}"),
        ["compare names 'sasrek' (did you mean 'sasrec'?)"],
    ),
    "no codes": (
        text(notebooks='["01", "05"]'),
        ["leaves out 02_tokenizer_training", "05_recommender_training reads", "add 02_tokenizer_training"],
    ),
    "no start": (
        text(preset="utgrec_tiny", overrides="{transfer.start: nope, transfer.targets: [Garden]}"),
        ["transfer.start is 'nope'", "run that one first"],
    ),
    "unknown target": (
        text(preset="utgrec_tiny", overrides="{transfer.targets: [Gardn]}"),
        ["transfer.targets names 'Gardn' (did you mean 'Garden'?)"],
    ),
    "wrong in two places": (
        text(dataset="{name: bazaar, items: -5}", overrides="{tokenizer.lvels: 3}", seed="-1"),
        ["3 errors", "seed is -1", "dataset.items is -5", "'tokenizer.lvels' is unknown"],
    ),
}
