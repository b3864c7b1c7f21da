"""The real words of the generated tasks; none of the names, places and acts is one of Temporal Sequences' own."""


def _list(text: str, separator: str | None = None) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(separator))


# First names.
PEOPLE = _list(
    """
    Agnes Alma Amir Anouk Arvid Basil Bianca Bruno Carmen Cedric Chloe Clara Cosmo Dalia Dario Doris Edgar Edith
    Elias Elsa Emil Erik Esther Fabian Felix Fiona Freya Gaston Gemma Gideon Greta Gustav Hector Helga Henrik
    Hilda Hugo Ida Ilsa Imogen Ingrid Iris Ivan Jasper Joanna Jonas Judith Julius Kaspar Keiko Kirsten Klaus Lara
    Leila Leopold Lorenzo Lucia Ludwig Mabel Magnus Malik Marta Matilda Milo Mina Nadia Nestor Nina Noor Olaf Olga
    Oscar Otto Paloma Pavel Petra Philipp Quentin Rafael Ramona Regina Rolf Rosa Ruben Sabine Salma Selma Silas
    Simone Sofia Stefan Tamara Tariq Theo Tilda Ulrich Ursula Vera Viktor Walter Wanda Xenia Yasmin Yusuf Zara Zoe
    """
)
# Where people go and are seen in `temporal`; each follows an article.
PLACES = _list(
    """
    abbey|allotment|aquarium|archive|arcade|auction|barber shop|boathouse|brewery|butcher|campsite|canteen|castle|
    cathedral|chapel|cheese shop|chess club|choir room|circus|clinic|courthouse|creamery|crypt|distillery|
    dockyard|embassy|farm|ferry landing|fire station|fish stall|fortress|foundry|fountain|glasshouse|gravel pit|
    harbour|hat shop|hospital|hostel|ice rink|jeweller|kennel|kiln|laundry|lighthouse|mill|monastery|observatory|
    orchard|palace|pharmacy|pier|planetarium|post office|pottery|quarry|racetrack|registry|sauna|shipyard|
    shooting range|skate ramp|stable|swamp|tailor|tannery|temple|tower|town hall|toy shop|tunnel|vineyard|
    weaving mill|windmill|workshop|zoo
    """,
    "|",
)
# What they are seen doing,
VERBS = _list(
    """
    arranging baking boiling borrowing brushing carrying carving cleaning collecting counting cutting drawing
    drying dusting feeding filling folding gluing grinding guarding hanging hiding juggling knitting lifting
    loading measuring mending mixing moving oiling packing peeling piling polishing pulling pushing repairing
    rinsing rolling selling sewing sharpening sketching sorting stacking steaming storing sweeping trading
    unloading weighing wrapping
    """
)
# and to what.
OBJECTS = _list(
    """
    anchors apples barrels baskets bells belts blankets boots bottles bricks brooms buckets candles canvas carpets
    carrots chairs coins combs corks crates cups curtains drums eggs feathers flags forks gloves goats hammers
    hats herbs herrings jars kettles keys kites knives ladders lamps lanterns letters maps marbles masks mirrors
    nails nets onions pears pebbles pipes planks plates pots pumpkins quilts ribbons ropes saddles sails shells
    shovels spoons stamps stones tiles tools toys trays turnips umbrellas vases walnuts wheels wool
    """
)
# What a person can be in `logic`,
NOUNS = _list(
    """
    baker banker barber beekeeper biker boxer butcher carpenter climber clown collector cook cyclist dancer
    dentist designer diver doctor drummer farmer fencer fiddler fisher florist gambler gardener guard guide hunter
    juggler jurist lawyer mason mechanic medic miller miner monk novelist nurse painter pianist pilot plumber poet
    potter printer rider rower sailor scholar sculptor singer skater soldier surfer surgeon tailor teacher trader
    tutor violinist waiter weaver welder wrestler
    """
)
# what like,
ADJECTIVES = _list(
    """
    awake bold brave bright broke busy calm careful cautious clever clumsy curious eager famous fierce gentle
    greedy happy honest humble hungry jealous kind lazy lonely loud loyal lucky modest nervous noble patient
    playful polite poor popular proud quick quiet rich rude sad shy silent sleepy slow smart stern strict strong
    stubborn sturdy tall tidy tired tough vain wealthy wise witty young
    """
)
# and what a person can do: third person, base form.
VERB_PHRASES = tuple(
    (phrase.split("/")[0], phrase.split("/")[1])
    for phrase in _list(
        """
        bakes bread/bake bread|breeds dogs/breed dogs|brews beer/brew beer|builds boats/build boats|
        climbs hills/climb hills|collects coins/collect coins|drinks tea/drink tea|drives a van/drive a van|
        eats fish/eat fish|fears spiders/fear spiders|feeds birds/feed birds|grows beans/grow beans|
        keeps bees/keep bees|knits socks/knit socks|likes rain/like rain|lives alone/live alone|
        loves opera/love opera|owns a horse/own a horse|paints walls/paint walls|plays chess/play chess|
        plays golf/play golf|plays the flute/play the flute|reads poems/read poems|rides a bike/ride a bike|
        runs fast/run fast|sells hats/sell hats|sings well/sing well|skips lunch/skip lunch|sleeps late/sleep late|
        speaks Latin/speak Latin|studies maps/study maps|swims daily/swim daily|teaches math/teach math|
        tells jokes/tell jokes|travels a lot/travel a lot|votes early/vote early|wears boots/wear boots|
        works at night/work at night|writes letters/write letters
        """,
        "|",
    )
)
# What is counted in `arithmetic`.
THINGS = _list(
    """
    apples badges beads books boxes bricks buns buttons cards chairs coins corks cups dates eggs figs flags forks
    grapes hats kites leaves lemons lilies maps marbles masks mugs nails nuts olives pears pencils pens pins plums
    potatoes ribbons rings roses seeds shells spoons stamps stones tickets tiles toys tulips wheels
    """
)
# What people play in `recall`.
INSTRUMENTS = _list(
    """
    banjo bassoon bugle celesta cello clarinet cornet cymbal drum fiddle flute gong guitar harp horn lute lyre
    mandolin oboe organ piano piccolo recorder rattle sitar tambour triangle trombone trumpet tuba viola zither
    """
)
# Syllables of invented words; a vowel or an empty coda listed twice is drawn twice as often.
ONSETS = _list(
    "b bl br c ch cl cr d dr f fl fr g gl gr h j k kl kr l m n p pl pr qu r s sh sk sl sm sn sp st t th tr v w z"
)
VOWELS = _list("a a e e i i o o u u ai au ea ee oa oo ou")
CODAS = ("", "", "", "", *_list("b ck d f g k l ll m mp n nd ng nt p r rk rn rt s sk ss st t th x zz"))
