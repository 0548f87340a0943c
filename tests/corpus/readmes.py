"""A made-up corpus that shares boilerplate as the READMEs of public repositories do, and leaks planted into it.

Few texts are in very many documents (licences, what scaffolding tools write), many are in some (what an organisation puts under
all of its READMEs), and every licence bears another year and name.
"""

import random
from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

MIT = """Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit persons to
whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE,
ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""
APACHE = """Licensed under the Apache License, Version 2.0 (the "License");
you may not use this file except in compliance with the License.
You may obtain a copy of the License at

    http://www.apache.org/licenses/LICENSE-2.0

Unless required by applicable law or agreed to in writing, software
distributed under the License is distributed on an "AS IS" BASIS,
WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
See the License for the specific language governing permissions and
limitations under the License."""

_SYLLABLES = [
    first + second for first in "bcdfghklmnprstvw" for second in ("al", "an", "er", "in", "ol", "on", "ur", "ay")
]
VOCABULARY = [first + second for first in _SYLLABLES for second in _SYLLABLES]


def words(choose: random.Random, count: int) -> list[str]:
    """Return words of which no thirteen in a row come twice."""
    return choose.choices(VOCABULARY, k=count)


def prose(choose: random.Random, count: int) -> str:
    """Return sentences of `count` words."""
    return ". ".join(" ".join(words(choose, min(12, count - start))) for start in range(0, count, 12)) + "."


@dataclass(frozen=True)
class Pool:
    """Texts of which the k-th is chosen in proportion to 1 / k (Zipf)."""

    texts: tuple[str, ...]
    shares: tuple[float, ...]

    def choose(self, choose: random.Random) -> str:
        return self.texts[bisect(self.shares, choose.random() * self.shares[-1])]


def pool(choose: random.Random, size: int, least: int, most: int) -> Pool:
    texts = tuple(prose(choose, choose.randint(least, most)) for _ in range(size))
    return Pool(texts, tuple(accumulate(1 / rank for rank in range(1, size + 1))))


def readmes(count: int, seed: int = 0) -> Iterator[str]:
    """Yield `count` documents of some 2 KB, of which about a third is boilerplate."""
    choose = random.Random(seed)
    scaffolds = pool(choose, 1 + min(60, count // 500), 80, 300)
    organisations = pool(choose, max(1, count // 50), 20, 60)
    for number in range(count):
        name = " ".join(words(choose, 2)).title()
        parts = [f"# {' '.join(words(choose, 2))} {number}", prose(choose, int(choose.lognormvariate(5, 0.7)) + 20)]
        if choose.random() < 0.4:
            parts.append("## Getting started\n\n" + scaffolds.choose(choose))
        parts.append("## Usage\n\n```\n" + prose(choose, choose.randint(10, 60)) + "\n```")
        if choose.random() < 0.5:
            parts.append("## About us\n\n" + organisations.choose(choose))
        year = choose.randint(2008, 2025)
        licence = choose.random()
        if licence < 0.2:
            parts.append(f"## License\n\nMIT License\n\nCopyright (c) {year} {name}\n\n{MIT}")
        elif licence < 0.3:
            lines = f"Copyright {year} {name}\n\n{APACHE}".splitlines()
            parts.append("\n".join(f"// {line}".rstrip() for line in lines))
        elif licence < 0.7:
            parts.append(
                "## License\n\nThis project is licensed under the MIT License - see the LICENSE.md file for details"
            )
        yield "\n\n".join(parts) + "\n"


def leak(item: str, number: int, choose: random.Random) -> str:
    """Return an item as it leaks: as it is, in other case, with other punctuation and line ends, or half of it."""
    split = item.split()
    half = len(split) // 2
    return (
        item,
        item.upper(),
        "\n".join(word.capitalize() + choose.choice(",.;:!") for word in split),
        " ".join(split[:half] if number % 8 < 4 else split[half:]),
    )[number % 4]


def near_miss(item: str, ngram: int) -> str:
    """Return an item of which no more than `ngram` - 1 words in a row are left as they were."""
    return " ".join(f"qzx{place}" if place % ngram == ngram - 1 else word for place, word in enumerate(item.split()))


def plant(document: str, text: str) -> str:
    """Return a document with the text after its first paragraph."""
    title, rest = document.split("\n\n", 1)
    return f"{title}\n\n{text}\n\n{rest}"
