"""What the phrases say that state a label of FOLIO and `logic`, or none; a table and the pieces that it is made of."""

_ADVERB = r"(?:(?:\w+ly|so|then|also|thus|hence|indeed|in fact)\s+)?"
_ABLE = (
    r"(?:determin|conclud|infer|prov|show|establish|verif|decid|deduc|confirm|evaluat|assess|ascertain|deriv"
    r"|refut|disprov)\w*"
)
_CANNOT = (
    r"(?:can\s?not|can't|could not|couldn't|impossible to|unable to|(?:not|isn't) possible to|no way to"
    r"|not able to|cannot)"
)
_REST = r"(?:(?!\b(?:so|therefore|thus|hence|but|however)\b)[^.;,\n]){0,300}"  # of the clause
CLAIM = r"\b(?:conclusion|statement|claim|hypothesis|assertion|proposition|argument|sentence)\b"
_THE_CLAIM = rf"(?:it|(?:the|this|that) {CLAIM})"
_NEGATION = r"(?:negation|opposite|contrary)\b(?: of [^.;,\n]{0,200}?)?,? (?:is|must be|follows|holds)\b"
_NEVER = r"(?:not|never|(?:cannot|can't|can not|could not) be)"
_DENIES = r"(?:not|\w+n't|cannot|neither)"
_LIGHT = r"(?:(?:it|it's|is|has|been|be|can|could|that|to|either|(?:dis)?prove[nd]|provably|shown|necessarily) )*"
_DO_NOT = r"(?:do(?:es)? not|don't|doesn't)"
_MIGHT = r"(?:could|may|might|can)(?: or (?:could|may|might) not)?(?: (?:still|well|also|in fact|(?!only)\w+ly))*"

# In order of precedence: a longer phrase takes its words away from the shorter ones below it.
PHRASES: tuple[tuple[str, str | None], ...] = (
    (r"(?:whether|if)\b[^.;,\n]{0,200}?\btrue\b[^.;,\n]{0,200}?\bfalse\b(?:,? or uncertain| or not)?", None),
    (r"true\s*[,/|]\s*false\s*[,/|]?\s*(?:and|or)?\s*(?:uncertain|unknown)", None),
    (
        r"neither\s+(?:\w+\s+){0,2}?(?:true|false|prove[nds]?|provable|confirm(?:ed)?|verif(?:y|ied)|support(?:ed)?"
        r"|entail(?:ed)?|impl(?:y|ied)|establish(?:ed)?|follows?|contradict(?:s|ed)?|refuted?|disprove[nds]?)"
        rf"(?:\s+(?:from|by)(?:\s+the\s+(?:\w+\s+)?premises)?|\s+(?:the|this)\s+{CLAIM})?,?\s+nor\s+"
        r"(?:(?:is|are|does|do|has been)\s+)?(?:\w+ly\s+)?\w+"
        rf"(?:\s+(?:by\s+the\s+(?:\w+\s+)?premises|(?:the|this)\s+{CLAIM}))?",
        "Uncertain",
    ),
    (r"(?:true|false|uncertain|unknown) (?:is|would be) (?:wrong|incorrect|not (?:right|correct))", None),
    *(
        (
            rf"{_DENIES} {_LIGHT}{one},? (?:(?:and|but) {_LIGHT}{_DENIES}|n?or|and) {_LIGHT}{other}",
            "Uncertain",
        )
        for one, other in (("true", "false"), ("false", "true"))
    ),
    (
        rf"neither (?:the|this) {CLAIM} nor its (?:negation|opposite|contrary)\b{_REST}"
        rf"|both (?:the|this) {CLAIM} and its (?:negation|opposite|contrary)\b{_REST}"
        r"|(?:support|confirm|prov|entail|establish)\w*,? n?or (?:contradict|den(?:y|ie)|refut|disprov|disconfirm)\w*"
        rf"(?: (?:by the (?:\w+ )?premises|(?:the|this) {CLAIM}))?"
        rf"|(?:no (?:\w+ )?conclusion|nothing)(?: \w+)? (?:can|could) be (?:drawn|said|concluded|inferred|deduced"
        r"|determined|known)"
        rf"\b{_REST}|nothing is (?:known|said|stated|given)\b{_REST}"
        rf"|says? nothing\b{_REST}|nothing\b[^.;,\n]{{0,60}} follows\b{_REST}|both true and false\b{_REST}"
        rf"|(?:nobody|no one) (?:knows|can (?:know|say|tell))\b{_REST}|consistent with both\b{_REST}"
        rf"|no way of (?:know|tell|determin|say)ing\b{_REST}"
        r"|lack(?:s|ing)? (?:the )?(?:information|evidence)|non[ -]sequitur|could go either way"
        rf"|(?:true|false) in some\b{_REST}|leaves? (?:(?:it|this|that|the question) open|open\b{_REST})"
        rf"|{_CANNOT} be answered\b{_REST}"
        rf"|{_DO_NOT} (?:mention|(?:say|tell)(?: us)? anything)\b{_REST}"
        rf"|{_DO_NOT} (?:{_ABLE}|make|render|entail|imply|guarantee) (?:(?:the|this|its?) (?:truth|{CLAIM})"
        rf"|it)\b{_REST}"
        rf"|(?:insufficient|(?:not|n't) (?:enough|sufficient)) to (?:{_ABLE}|say|tell|know|answer)\b{_REST}"
        rf"|{_DO_NOT} (?:allow|let|permit|enable) (?:us|one|me)\b{_REST}"
        rf"|{_DO_NOT} (?:give|provide)(?: us)? an? (?:definite|definitive|clear|conclusive) answer"
        rf"|not something (?:we|one|that) can (?:be )?{_ABLE}"
        rf"|(?:more|additional|further) information (?:is|would be) (?:needed|required|necessary)\b{_REST}",
        "Uncertain",
    ),
    (rf"would (?:\w+ )?(?:be|have been) (?:\w+ly )?(?:true|false) (?:only )?(?:if|when|had)\b{_REST}", None),
    (r"(?:anything but|far from|not at all|by no means|hardly) (?:certain|clear|guaranteed|proven)", "Uncertain"),
    (r"(?:anything but|far from|not at all|by no means) (?:true|correct)", "False"),
    (
        rf"{_MIGHT} be (?:either\b|(?:true|false))(?: (?:true|false))?(?: or (?:true|false)"
        rf"| in (?:some|one|certain)\b{_REST})?",
        "Uncertain",
    ),
    (r"possibly (?:true|false)", "Uncertain"),
    (
        r"(?:entail|impl(?:y|ie)|prove|guarantee|establishe?|yield)s? (?:that )?(?:the|its) (?:negation|opposite"
        r"|contrary)"
        rf"\b(?: of (?:the|this) {CLAIM})?(?! (?:is|must be|holds) (?:\w+ )?false)",
        "False",
    ),
    (rf"{_NEGATION} (?:\w+ )?false", "True"),
    (rf"{_NEGATION}(?: (?:\w+ )?true| from)?", "False"),
    (rf"(?:not|never) (?:the case|true|correct) that {_THE_CLAIM} (?:\w+ly )?follows\b{_REST}", "Uncertain"),
    (rf"{_NEVER} (?:the case|true|correct) that {_THE_CLAIM}{_REST}\b(?:false|untrue)", "True"),
    (rf"{_NEVER} (?:the case|true|correct) that {_THE_CLAIM}{_REST}\b(?:uncertain|unknown)", None),
    (rf"{_NEVER} (?:the case|true|correct) that {_THE_CLAIM}{_REST}", "False"),
    (r"not (?:merely|just|simply|only) (?:uncertain|unknown)|not (?:merely|just|simply) (?:true|false)", None),
    (r"not only(?= true| false)", None),
    (rf"(?:wrong|incorrect|false|a mistake|premature) to (?:say|call|conclude|claim|assume|state)\b{_REST}", None),
    (
        rf"(?:nothing|no(?:ne of the)? (?:\w+ )?premises?)\b[^.;,\n]{{0,60}}?\b(?:tells?|says?|states?|lets?|allows?"
        rf"|mentions?|indicates?|specif(?:y|ies)|establish(?:es)?|determines?|decides?|settles?|implies|imply"
        rf"|addresses)\b{_REST}(?:,? (?:and|nor) none\b{_REST})?"
        r"|premises? (?:is|are|remains?) silent|remains? (?:an )?open\b(?: question)?",
        "Uncertain",
    ),
    (rf"impossible for {_THE_CLAIM} to be (?:\w+ )?true|no way (?:that )?{_THE_CLAIM} (?:is|can be) true", "False"),
    (rf"impossible for {_THE_CLAIM} to be (?:\w+ )?false", "True"),
    (
        rf"{_DO_NOT} (?:tell|say|specify|state|indicate|establish|show|settle)(?: us)?"
        rf" (?:whether|if)\b{_REST}",
        "Uncertain",
    ),
    (rf"(?:(?:truth|{CLAIM})[^.;,\n]{{0,40}}|it) depends on\b{_REST}", "Uncertain"),
    (
        rf"{_CANNOT}\s+(?:be\s+)?{_ADVERB}(?:{_ABLE}|sa(?:y|id)|tell|told|know|known)\b"
        rf"(?:\s+{_ADVERB}(?:to be\s+|as\s+)?"
        r"(?:either\s+)?(?:true|false)(?:\s+or\s+(?:true|false))?)?"
        rf"(?:\s+(?:(?:whether|if|that)\b|{_THE_CLAIM}){_REST})?"
        rf"(?:,? (?:n?or|and) (?:(?:that|whether|if) )?{_THE_CLAIM} (?:is|are) (?:not )?(?:true|false))?"
        r"(?:,? n?or (?:can it be |be )?(?:dis\w+|refuted|denied|contradicted))?",
        "Uncertain",
    ),
    (
        rf"(?:(?:not|isn't|in|never)\s?(?:enough|sufficient)"
        rf"|(?:lack of|no|without|(?:\w+n't|not) (?:have|provide|give))"
        rf"(?: us)?(?: enough| sufficient| any| direct)?)\s+"
        rf"(?:information|evidence|data|details?|info)(?:\s+(?:about|on|regarding|whether|that|to)\b{_REST})?",
        "Uncertain",
    ),
    (
        r"(?:determin|check|evaluat|decid|verify|assess|examin|analy[sz]|consider|see|find out)(?:e|ing)?"
        rf" (?:whether|if)\b{_REST}",
        None,
    ),
    (rf"(?<!that )(?:it is|it's) (?:therefore |thus )?false that {_THE_CLAIM} is (?:\w+ly )?false", "True"),
    (rf"(?<!that )(?:it is|it's) (?:therefore |thus )?false that {_THE_CLAIM} is (?:uncertain|unknown)", None),
    (rf"(?<!that )(?:it is|it's) (?:therefore |thus )?false that\b{_REST}", "False"),
    (rf"(?<!that )(?:it is|it's) (?:therefore |thus )?true that {_THE_CLAIM} is (?:\w+ly )?false", "False"),
    (rf"(?<!that )(?:it is|it's) (?:therefore |thus )?true that\b{_REST}", "True"),
    (rf"not the case that\b{_REST}\btrue", "False"),
    (rf"not the case that\b{_REST}\bfalse", "True"),
    (r"(?:isn't|not) (?:un(?:certain|known|determined)|indeterminate)", None),
    (
        r"(?:not|isn't|n't be)\s+(?:necessarily|definitely|definitively|certainly|provably|conclusively"
        r"|guaranteed(?: to be)?|known to be)\s*(?:true|false|follow)?(?:\s+or\s+(?:true|false))?",
        "Uncertain",
    ),
    (r"(?:does not|doesn't|do not|don't)\s+(?:\w+ly\s+)?follow", "Uncertain"),
    (r"(?:not|isn't)\s+(?:\w+ly\s+)?(?:entailed|implied|deducible|derivable|prove[nd])(?: by\b)?", "Uncertain"),
    (
        r"(?:may|might) or (?:may|might) not"
        r"|(?<!I'm )(?<!I am )not (?:certain|clear|sure|known|provable|determinable|decidable|verifiable)"
        rf"(?:\s+(?:whether|if|that)\b{_REST})?",
        "Uncertain",
    ),
    (
        rf"(?<!I )(?:\w+n't|not|can\s?not) (?:know|be (?:certain|sure))(?:\s+(?:about|whether|if|that)\b{_REST})?",
        "Uncertain",
    ),
    (
        r"(?:uncertain|unknown|un-?determin(?:ed|able)|in-?determin(?:ate|able)|undecid(?:ed|able)|inconclusive|unclear"
        rf"|unverifiable|unprovable|unprove[nd])(?:\s+(?:whether|if|that)\b{_REST})?",
        "Uncertain",
    ),
    (
        rf"(?:not|isn't|is never|no longer|can\s?not be|can't be|cannot possibly be)\s+{_ADVERB}(?:true|correct)",
        "False",
    ),
    (rf"(?:not|isn't|can\s?not be|can't be)\s+{_ADVERB}(?:false|incorrect|untrue)", "True"),
    (
        r"(?:not|\w+n't) contradicted\b[^.;\n]{0,60}(?:\bnot|n't|\bnor) (?:supported|entailed|implied|confirmed)",
        "Uncertain",
    ),
    (
        r"(?:not|\w+n't)\s+(?:be\s+)?(?:\w+ly\s+)?(?:contradict\w*|refuted?|disprove[nd]?|inconsistent|ruled out)\b",
        None,
    ),
    (
        r"false|untrue|(?:is|are|be) (?:incorrect|inaccurate)"
        r"|(?:contradict(?:s|ed by)|conflicts? with|violates?|at odds with|goes against) (?:the (?:\w+ )?)?premises?"
        rf"|(?:contradict|refute|disprove|negate|rule out)s? (?:(?:the|this) {CLAIM}|(?:it|this|that)(?=\W*$))"
        rf"|refuted|disprove[nd]"
        rf"|inconsistent with|{CLAIM} (?:is|leads to) a contradiction|{CLAIM} is (?:\w+ly )?contradicted"
        rf"|{CLAIM} (?:is|must be) (?:\w+ly )?(?:wrong|impossible)",
        "False",
    ),
    (r"(?:does not|doesn't|fails to|cannot|can't) hold(?: true)?", "False"),
    (
        r"true|(?:conclusion|statement|claim) (?:\w+ly )?holds|(?:is|are|be) correct|follows? (?:\w+ )?from"
        rf"|premises (?:(?:\w+ly|together|all) )?(?:entail|imply|guarantee|prove) (?:the|this) {CLAIM}|consequence of"
        r"|(?:is|are) derivable"
        r"|can be (?:\w+ly )?(?:derived|inferred|deduced|prove[nd]|concluded) from"
        rf"|{CLAIM} (?:\w+ly )?(?:follows|does (?:\w+ly )?follow)(?! (?:if|only))"
        rf"|can (?:\w+ly )?(?:infer|derive|deduce|conclude|prove) (?:the|this) {CLAIM}"
        rf"|{CLAIM} (?:is|has been) (?:\w+ly )?(?:confirmed|verified|established|demonstrated)"
        r"|(?:entailed|guaranteed) by|(?:is|has been) (?:\w+ly )?prove[nd]"
        rf"|{CLAIM} (?:is|must be) (?:\w+ly )?(?:right|accurate)",
        "True",
    ),
)
