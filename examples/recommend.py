"""What a shared recommender suggests next: `python examples/recommend.py FOLDER "a title" "another title"`.

FOLDER is what `Recommender.save_pretrained` wrote, or a hub repository "owner/name". Titles (or the source's
own ids) are those of one shopper, oldest first.
"""

from __future__ import annotations

import sys
from difflib import get_close_matches

from genrec_lab.models import Recommender


def main(source: str, named: list[str], top_k: int = 5) -> int:
    """Print the top_k items after these, with their log-probabilities; 2 where an item is not known."""
    model = Recommender.from_pretrained(source)
    if model.shared_items is None:
        print(f"{source} holds no titles; it was shared without items", file=sys.stderr)
        return 2
    titles, keys = model.shared_items["title"].to_list(), model.shared_items["key"].to_list()
    index = {name: item for names in (titles, keys) for item, name in reversed(list(enumerate(names)))}
    history = []
    for name in named:
        if name not in index:
            near = get_close_matches(name, titles, n=3)
            print(f"{name!r} is no item of this model; near: {', '.join(near) or 'none'}", file=sys.stderr)
            return 2
        history.append(index[name])
    ranked = model.recommend([history], top_k)
    for item, score in zip(ranked.items[0], ranked.scores[0], strict=True):
        if item >= 0:
            print(f"{score:8.3f}  {titles[item]}  ({keys[item]})")
    return 0


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2:]))
