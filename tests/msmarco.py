"""MS MARCO in miniature, in the files that ir_datasets and pyserini fetch: two collections, judged queries of both.

The document that answers says so in other words than the query; one with the query's words is about another matter.
"""

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

from qedistill.retrieval.jvm import java_class

# Training: query, the one passage judged, a passage of its words.
TRAIN = [
    ("how long does it take to get rid of a cold",
     "Most rhinovirus infections clear within seven to ten days; congestion and sneezing peak on day three.",
     "It takes a long time to get rid of cold air in the loft; how long does the heater take?"),
    ("why do my ears pop on a plane",
     "As cabin pressure falls, the eustachian tubes open to equalise the middle ear with its surroundings.",
     "Pop on your headset: my plane game has a pop song for ears of corn."),
    ("what makes bread rise",
     "Yeast ferments sugars in the dough and releases carbon dioxide, which gluten traps in bubbles.",
     "What makes prices rise? A rise in the price of bread makes headlines."),
    ("cost to put a new roof on",
     "Shingle replacement runs from $5,500 to $11,000, depending on pitch, square footage and underlayment.",
     "Put a new flag on the roof of the car at no cost: new flags cost little."),
    ("who runs the country when the president is sick",
     "Under the Twenty-fifth Amendment the vice president acts with full powers during an incapacity.",
     "The country club president runs a mile, runs a sick note past the country doctor and runs home."),
    ("what do you call a baby kangaroo",
     "A joey stays in its mother's pouch for about six months and suckles on one of four teats.",
     "Call the baby line: what do you call a kangaroo that you call on the phone?"),
    ("is it bad to eat late at night",
     "Dining shortly before sleep may provoke reflux and disturb insulin, according to metabolic studies.",
     "The late night show is bad; eat popcorn at night, the bad reviews say, it is late."),
    ("how do you stop a nose from bleeding",
     "For epistaxis, lean forward, pinch both nostrils below the bridge for ten minutes and apply ice.",
     "Bleeding colours: how do you stop a dye from bleeding? Follow your nose and stop at the shop."),
    ("what is the biggest thing in space",
     "The Hercules–Corona Borealis Great Wall, a supercluster of galaxies, spans ten billion light-years.",
     "The biggest thing in the office space is the desk; what is the biggest problem? Space."),
    ("do dogs see color",
     "Canine retinas carry two kinds of cone, so blue and yellow are told apart while red looks brownish.",
     "See the color chart: color your dogs, see what color the dogs do like."),
    ("how to make my phone battery last longer",
     "Lithium-ion cells age least between 20 and 80 % charge; dim the screen and disable background sync.",
     "How long did the phone call last? Make it longer. My phone book is longer than last year."),
    ("what causes the tides to change",
     "The moon's gravity pulls the oceans into two bulges under which the Earth rotates twice a lunar day.",
     "Change causes change: the Tides, a band, change what causes they support."),
    ("can you take a shower in a thunderstorm",
     "Lightning can travel through metal plumbing, so avoid bathing and washing dishes until it has passed.",
     "Take a shower of praise: can you take the song Thunderstorm? You can take it home."),
    ("why are leaves green",
     "Chlorophyll absorbs red and blue light for photosynthesis and reflects what lies between.",
     "Why are the greens leaving? The Green party leaves talks; green leaves town."),
    ("where do they get salt from",
     "Sodium chloride is mined as halite or left behind by evaporation of brine in shallow ponds.",
     "Salt Lake City: where do they get the train from? They get it from the Salt Lake station."),
    ("how old do you have to be to rent a car",
     "Most agencies hire vehicles to drivers of 25 and above; younger ones pay a daily surcharge.",
     "How old is the old car? Do you have to rent out the old garage to be old school?"),
    ("what is wrong if your pee is dark",
     "Amber urine usually signals dehydration; tea-coloured urine may point to bilirubin or liver disease.",
     "What is wrong with the dark theme? If your dark mode is wrong, your screen is dark."),
    ("how do planes stay up",
     "Wings deflect air downwards; the pressure difference across the aerofoil yields lift that balances weight.",
     "Stay up late: how do planes of glass stay up? Stay tuned, and stay up to date."),
    ("what do sommeliers\u0085 do all  day",  # a line's end to Python, not to the file
     "A wine steward curates the cellar, decants bottles and pairs vintages with each course of the menu.",
     "What do they do all day? All day long they do what all do all day."),
    (" price of a caffè  in italy",
     "An espresso at the bar costs about €1.20 in Rome, and more when a waiter serves it at a table.",
     "Price index of Italy: the price of a house, the price of oil, the price of a car."),
    ("meaning of niño\u00a0in the weather",
     "Warm Pacific waters off Peru weaken the trade winds and bring drought to Indonesia and Australia.",
     "The meaning of the weather in the song; the meaning of the weather in the film."),
]  # fmt: skip

# Deep Learning tracks: query, then passages of the grades 3, 2, 1 and 0.
DL19 = [
    ("how fast do snails move",
     "A garden snail, a gastropod, glides at roughly one millimetre per second, leaving a trail of mucus.",
     "Gastropods secrete mucus so that the muscular foot can glide without injury.",
     "The mucus of a gastropod is used in cosmetics.",
     "Move fast: how fast do you move house? Snail mail does not move fast."),
    ("what happens when you crack your knuckles",
     "Stretching the joint capsule lets gas form a cavity in the synovial fluid, which collapses audibly.",
     "Synovial fluid lubricates the joint; a bubble in it needs twenty minutes to dissolve again.",
     "Joint capsules are made of collagen.",
     "When you crack the code, what happens? You crack your eggs, crack your whip."),
    ("why does metal feel colder than wood",
     "Thermal conductivity: steel draws heat away from skin far quicker than timber of equal temperature.",
     "Conductivity of steel is about 50 W/mK, of oak timber 0.2; heat flows accordingly.",
     "Timber is a poor conductor of heat and electricity.",
     "Metal fans feel colder: a heavy metal band does feel at home in Wood Green, colder than the band."),
    ("is a tomato a fruit",
     "Botanically it is a berry, since it ripens from the ovary of a flower and holds the seeds.",
     "Berries such as a tomato develop from a single ovary; the seeds are embedded in the flesh.",
     "A flower's ovary sits beneath the style.",
     "Tomato soup is on; a fruit fly is a fly; tomato red is a colour, a fruit bowl is a bowl."),
]  # fmt: skip
DL20 = [
    ("what to do when a bee gets you",
     "After a bee sting, scrape the stinger out sideways, then apply a cold compress; antihistamines ease swelling.",
     "Venom sacs keep pumping: remove the stinger at once, then use a compress against swelling.",
     "Antihistamines ease hay fever.",
     "What to do when a spelling bee gets you down? Do what gets you on."),
    ("how far away is the sun",
     "From Earth to sun, one astronomical unit equals 149.6 million kilometres, which light crosses in eight minutes.",
     "The astronomical unit was measured by transits of Venus; light needs eight minutes for it.",
     "Venus transits occur in pairs eight years apart.",
     "How far away is the Sun Hotel? Far away is a song: the sun is far too hot."),
    ("why can't I sleep after coffee",
     "The caffeine of coffee blocks adenosine receptors in the brain for five hours or more, postponing drowsiness.",
     "Adenosine builds up while we are awake; caffeine binds to its receptors instead.",
     "Receptors are proteins in cell membranes.",
     "Coffee table for sale after all; can't sleep on it, I sleep on the sofa after coffee."),
    ("best way to clean a cast iron pan",
     "Rinse the iron skillet while warm, scrub with coarse salt, dry on the stove and wipe with a film of oil.",
     "A skillet is seasoned by baking a film of oil onto it until it polymerises.",
     "Oil polymerises when heated in air.",
     "The best way to clean up: a cast of actors, the Iron Man, a pan of the camera, the best cast."),
]  # fmt: skip
DL21 = [
    ("how do fish breathe",
     "In fish, water passes over gills, whose lamellae extract dissolved oxygen\nby countercurrent exchange.",
     "Gill lamellae are thin and rich in capillaries, so that oxygen diffuses into the blood.",
     "Capillaries are the narrowest vessels of the blood.",
     "Breathe in: how do you cook fish? Do fish tacos breathe life into how we eat?"),
    ("why is the sky red in the evening",
     "Rayleigh scattering removes short wavelengths from sunlight on its long path through the atmosphere.",
     "Scattering grows with the fourth power of frequency, so long wavelengths travel further in air.",
     "The atmosphere is mostly nitrogen.",
     "Red Sky Evening Radio: why is the evening show in red? The red sky is the name of the show."),
    ("what are the signs of a stroke",
     "FAST recognises a stroke: facial droop, arm weakness, slurred speech – every minute kills neurons.",
     "Slurred speech and sudden weakness of an arm call for an ambulance at once.",
     "Neurons do not divide.",
     "Road signs: what are the signs of the road? A stroke of luck are the signs on the golf stroke."),
    ("who invented the www",
     "Tim Berners-Lee proposed a hypertext system at CERN in 1989 and wrote the first browser and server.",
     "CERN released hypertext software to the public domain in 1993.",
     "CERN is near Geneva – its “ring” is 27 km long\u00a0.",
     "Who invented the name? The invented tale of the man who invented the tale: visit www pages."),
]  # fmt: skip
# As the real one has them: mangled encoding, next to nothing, nothing of sense.
NOISE = [
    "The cafÃ© serves crÃ¨me brÃ»lÃ©e at 20 Â°C.", "Â", "1 Answer. Best Answer: yes.",
    *(f"Lot {n} of the auction: a {thing}, signed." for n, thing in enumerate(
        ("vase", "lamp", "rug", "violin", "globe", "clock", "chair", "bust", "mirror", "flask", "chest", "harp"))),
]  # fmt: skip

DUPLICATE = "How fast do snails  move?"  # a training query of other ids and spelling that DL 2019 asks
UNJUDGED = "what was never judged"
ALL_ZERO = "who asked for nothing"  # judged, with nothing found relevant
ABSENT = "8841999"  # judged, but in no index
LOST = 2  # the training query whose only passage that is
ABSENT_V2 = "msmarco_passage_69_999999999"
FIRST_V1, FIRST_QUERY = 7_000_000, {"train": 1_000, "dl19": 19_335, "dl20": 23_849, "dl21": 2_082}
TRACKS = {"dl19": DL19, "dl20": DL20, "dl21": DL21}
RELEVANT = {"dl19": ABSENT, "dl20": ABSENT, "dl21": ABSENT_V2}


def collections() -> tuple[dict[str, str], list[dict[str, str]]]:
    """Passages of version 1 by id, and the records of version 2, whose id is bundle and place in it."""
    texts = [text for topic in [*TRAIN, *DL19, *DL20] for text in topic[1:]] + NOISE
    first = {str(FIRST_V1 + n): text for n, text in enumerate(texts)}
    second = []
    places = {"03": 0, "42": 0}
    for n, text in enumerate([*(text for topic in DL21 for text in topic[1:]), *NOISE]):
        bundle = ("03", "42")[n % 2]
        record = {
            "pid": f"msmarco_passage_{bundle}_{places[bundle]}", "passage": text, "spans": f"(0,{len(text)})",
            "docid": f"msmarco_doc_{bundle}_{places[bundle] * 3}",
        }  # fmt: skip
        places[bundle] += len(json.dumps(record).encode()) + 1
        second.append(record)
    return first, second


def queries_and_qrels() -> dict[str, tuple[dict[str, str], str]]:
    """Set → its queries by id, those too that are not judged, and its judgments as the file has them."""
    first, second = collections()
    ids = {text: doc_id for doc_id, text in first.items()} | {r["passage"]: r["pid"] for r in second}
    start = FIRST_QUERY["train"]
    queries = {str(start + n): topic[0] for n, topic in enumerate(TRAIN)} | {"900": DUPLICATE, "901": UNJUDGED}
    judged = [ids[topic[1]] for topic in TRAIN]
    judged[LOST] = ABSENT
    lines = [f"{start + n}\t0\t{doc_id}\t1\n" for n, doc_id in enumerate(judged)]
    # One query has a second passage, as few have, which is missing.
    lines += [f"900\t0\t{ids[DL19[0][1]]}\t1\n", f"{start}\t0\t{ABSENT}\t1\n"]
    found = {"train": (queries, "".join(lines))}
    for name, topics in TRACKS.items():
        start = FIRST_QUERY[name]
        iteration = "Q0" if name == "dl19" else "0"
        queries = {str(start + n): topic[0] for n, topic in enumerate(topics)}
        lines = [
            f"{start + n} {iteration} {ids[text]} {3 - place}\n"
            for n, topic in enumerate(topics) for place, text in enumerate(topic[1:])
        ]  # fmt: skip
        lines += [f"{start} {iteration} {RELEVANT[name]} 2\n", f"{start + 99} {iteration} {ids[topics[0][1]]} 0\n"]
        found[name] = queries | {str(start + 98): UNJUDGED, str(start + 99): ALL_ZERO}, "".join(lines)
    return found


def answers() -> dict[str, list[str]]:
    """Query, with single spaces → what a teacher says to it the first, the second ... time: true, or beside it."""
    topics = [*TRAIN, *DL19, *DL20, *DL21]
    said = {}
    for n, topic in enumerate(topics):
        elsewhere = topics[(n + 1) % len(topics)][1]
        said[" ".join(topic[0].split())] = [topic[1], elsewhere, f"Some say: {topic[1]}", f"Nobody knows. {elsewhere}"]
    return said


def write_downloads(folder: Path) -> dict[str, dict[str, dict[str, str]]]:
    """Write what ir_datasets fetches for the profile's sets; returns dataset → its name of a file → the file."""
    sets = queries_and_qrels()
    tsv = {name: "".join(f"{i}\t{q}\n" for i, q in queries.items()).encode() for name, (queries, _) in sets.items()}
    judged = {name: qrels.encode() for name, (_, qrels) in sets.items()}
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, content in (("dev", b"2\tandrogen receptor define\n"), ("train", tsv["train"]), ("eval", b"")):
            entry = tarfile.TarInfo(f"queries.{name}.tsv")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    files = {
        "msmarco-passage": {
            "queries": ("queries.tar.gz", archive.getvalue()),
            "train/qrels": ("qrels.train.tsv", judged["train"]),
            "trec-dl-2019/queries": ("msmarco-test2019-queries.tsv.gz", gzip.compress(tsv["dl19"])),
            "trec-dl-2019/qrels": ("2019qrels-pass.txt", judged["dl19"]),
            "trec-dl-2020/queries": ("msmarco-test2020-queries.tsv.gz", gzip.compress(tsv["dl20"])),
            "trec-dl-2020/qrels": ("2020qrels-pass.txt", judged["dl20"]),
        },
        "msmarco-passage-v2": {
            "trec-dl-2021/queries": ("2021_queries.tsv", tsv["dl21"]),
            "trec-dl-2021/qrels": ("2021.qrels.pass.final.txt", judged["dl21"]),
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    for own in files.values():
        for name, content in own.values():
            (folder / name).write_bytes(content)
    return {key: {entry: name for entry, (name, _) in own.items()} for key, own in files.items()}


def write_indexes(folder: Path, names: dict[str, str], work: Path) -> None:
    """Index both collections as the prebuilt ones were, and pack them as pyserini expects.

    Args:
        names: name of the index → that of its archive.
    """
    first, second = collections()
    corpus = work / "v1"
    corpus.mkdir(parents=True)
    lines = [json.dumps({"id": i, "contents": text}, ensure_ascii=False) + "\n" for i, text in first.items()]
    (corpus / "docs00.json").write_text("".join(lines), encoding="utf-8")
    (work / "v2").mkdir()
    for bundle in ("03", "42"):
        own = (json.dumps(r) + "\n" for r in second if r["pid"].split("_")[2] == bundle)
        (work / f"v2/msmarco_passage_{bundle}.gz").write_bytes(gzip.compress("".join(own).encode()))
    for name, collection, source in (
        ("msmarco-v1-passage", "JsonCollection", corpus),
        ("msmarco-v2-passage", "MsMarcoV2PassageCollection", work / "v2"),
    ):
        index = work / names[name].removesuffix(".tar.gz")
        java_class("io.anserini.index.IndexCollection").main([
            "-collection", collection, "-generator", "DefaultLuceneDocumentGenerator", "-threads", "1",
            "-input", str(source), "-index", str(index), "-storeRaw", "-optimize",
        ])  # fmt: skip
        with tarfile.open(folder / names[name], "w:gz") as tar:
            tar.add(index, index.name)


def checksum(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()
