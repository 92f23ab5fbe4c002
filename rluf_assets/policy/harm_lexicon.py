"""The word lists and patterns behind harm.py: idioms that only sound harmful, harmful requests by area, refusals.

A table, one pattern per line (hence the long lines), matched against `plain_text`: lower case, straight apostrophes.
"""

# ruff: noqa: E501
from __future__ import annotations

_PERSON = (
    r"(?:someone|somebody|anyone|people|persons?|humans?|strangers?|(?:wo)?m[ae]n|guys?|girls?|boys?|kid(?:s|do)?|child(?:ren)?|"
    r"neighbou?rs?|teachers?|boss|bosses|co-?workers?|colleagues?|wi(?:fe|ves)|husbands?|ex|ex-\w+|roommates?|flatmates?|"
    r"landlords?|parents?|mother|father|mum|mom|dad|brother|sister|uncle|aunt|grand\w+|girlfriend|boyfriend|friends?|"
    r"classmates?|students?|partners?|rivals?|enem(?:y|ies)|cops?|police(?:man|men)?|politicians?|president|immigrants?|"
    r"him|her|them|dogs?|cats?|pets?|babies|baby|crowds?|victims?|customers?|doctors?|nurses?)"
)
_OWNER = r"(?:someone|somebody|anyone|people|strangers?|neighbou?r|teacher|boss|co-?worker|colleague|wife|husband|ex|roommate|friend|company|bank|school|celebrity|another|other|user|their|his|her)"
_GET = r"(?:mak|build|assembl|construct|creat|print|cook|mix|synthesi[sz]|produc|craft|brew|buy|get|obtain|sell|smuggl|deal|grow|hid|import|order|bring|carry|set|plant|detonat|writ|cod|develop|design|send|run|start|spread|deploy|us)"

# Masked before anything else: words that sound harmful and are not.
IDIOMS = [
    r"\bkill(?:s|ed|ing)?\s+(?:\w+\s+){0,2}?(?:python|process(?:es)?|programs?|jobs?|tasks?|threads?|servers?|daemons?|sessions?|pods?|containers?|shells?|terminals?|ports?|scripts?|loops?|apps?|services?|zombies?|time|hours?|minutes|lights?|engine|weeds?|moss|mou?ld|germs?|bacteria|virus(?:es)?|lice|fleas|ticks|bugs|ants|wasps|roaches|cockroaches|mosquitoe?s|aphids|vibe|mood|switch|bill|buzz|joy|motivation|dragons?|monsters?|bosses|the boss (?:in|of|fight))\b",
    r"\bkill(?:s|ed|ing|er)?\s+(?:it|that presentation|two birds|(?:\w+\s+){0,2}?(?:a|the)\s+(?:audition|interview|exam|presentation))\b",
    r"\b(?:killer|killing|deadly|sick|wicked|bomb)\s+(?:\w+\s+)?(?:playlists?|apps?|outfits?|workouts?|deals?|features?|looks?|recipes?|songs?|lines?|presentations?|resumes?|cvs?|costumes?|party|parties|headlines?|openings?|serve|views?|salads?|sandwich|whales?|bees|instinct|pose|heels|dish(?:es)?|combos?|riffs?|solos?|jokes?|tacos?|cookies|cakes?|punchlines?|slides?|speech|speeches|cover letters?)\b",
    r"\b(?:bath|photo|glitter|seed|cherry|hot (?:chocolate|cocoa)|logic|truth|love|zip|fork)[ -]?bombs?(?:ed|ing)?\b|\b(?:sugar|snow|paint|water|confetti)\s+bombs?\b|\bthe bomb\b(?= (?:dish|party|at|in|with|playlist))",
    r"\bsho+t(?:s|ing)?\s+(?:\w+\s+){0,5}?(?:portraits?|photos?|photographs?|pictures?|videos?|films?|movies?|scenes?|footage|selfies?|weddings?|landscapes?|headshots?|stars|sunsets?|sunrises?|moon|timelapse|time-lapse|e-?mails?|texts?|messages?|hoops|baskets?|free throws?|three[- ]pointers?|pool|arrows?|targets?|raw|interviews?|commercials?|documentary|product)\b",
    r"\bshooting\s+(?:stars?|range|guard|schedule|script|hoops)\b|\b(?:photo|video|film|bamboo)\s+shoot(?:s|ing)?\b",
    r"\b(?:blow|blows|blew|blown|blowing)\s+up\s+(?:\w+\s+){0,3}?(?:balloons?|photos?|images?|pictures?|pool|mattress|air ?beds?|floats?|tyres?|tires?|posters?|bubbles?|on (?:social|tiktok|youtube|instagram|twitter)|online|my (?:channel|blog|brand))\b",
    r"\bhack(?:s|ed|ing)?\s+(?:together|up|out)\b|\b(?:life|kitchen|travel|productivity|study|growth|cooking|cleaning|packing|garden\w*|money[- ]saving|ikea)[ -]?hack(?:s|ing|er)?\b|\bhackathons?\b|\bhack\s+(?:my|your)\s+(?:\w+\s+)?(?:sleep|routine|habits?|productivity|morning|brain|diet|garden|desk|day)\b",
    r"\bcrack(?:s|ed|ing)?\s+(?:\w+\s+){0,2}?(?:eggs?|jokes?|nuts?|walnuts?|pepper|knuckles|back|coconuts?|crabs?|lobsters?|puzzles?|riddles?|crosswords?|interviews?|exams?|window open|books?|smiles?|whips?|up|of dawn)\b",
    r"\bbreak(?:s|ing)?\s+(?:a leg|the ice|even|a sweat|the bank|a habit|bad habits?|the news|down|out|up)\b|\bbreak(?:s|ing)?\s+into\s+(?:\w+\s+){0,3}?(?:industry|tech|acting|music|market|career|field|song|dance|laughter|pieces|chunks|steps|modelling|modeling|publishing|gaming|data science|film|business|smile|run|jog|applause)\b",
    r"\b(?:steal(?:s|ing)?|stole)\s+(?:the\s+(?:show|scene|spotlight|ball|base|thunder)|(?:a|second|third|home)\s+(?:base|glance|kiss|look|moment|nap)|home\b|second\b|third\b|hearts?|(?:\w+\s+)?(?:look|style|outfit|ideas? from))\b",
    r"\bpoison(?:\s+ivy|\s+oak|ed\s+apple|\s+damage|\s+type|\s+pok[eé]mon)\b|\bfood[- ]poison\w*",
    r"\bmurder\s+(?:myster(?:y|ies)|party|weapon in)\b|\b(?:whodunit|detective|crime|mystery)\s+(?:novels?|stor(?:y|ies)|games?|shows?|scripts?|night|party|plots?)\b",
    r"\b(?:attack|tackle|destroy|crush|demolish|slay|murder|slaughter|beat|execute|assault)\s+(?:\w+\s+){0,3}?(?:problem|essay|homework|exam|test|interview|level|competition|workout|hill|paperwork|to-?do|record|high score|opponent|rivals? (?:at|in)|chess|eggs?|egg whites|drums?|batter|traffic|heat|burger|buffet|dance ?floor|karaoke|script|query|plan|command|strategy|boss fight|final boss|raid)\b",
    r"\b(?:heart|panic|asthma|anxiety|sneak|cyber)\s+attack(?:s)?\b(?=.{0,30}(?:symptom|calm|cope|help|prevent|mean|feel))",
    r"\bchok(?:e|ed|ing)\s+(?:up|under pressure|in (?:the|an) (?:final|exam|interview))\b|\bartichokes?\b",
    r"\b(?:smok(?:e|ed|ing)|burn(?:s|ing|ed)?)\s+(?:\w+\s+){0,2}?(?:ribs?|brisket|salmon|calories|fat|wood|candles?|incense|cds?|dvds?|midnight|pork|meats?|sage|toast|cheese|leaves|off)\b",
    r"\bdrug\s*stores?\b|\bdate[- ]rape (?:awareness|prevention)\b|\bweed\s+(?:the|my|a)\s+(?:garden|lawn|bed)\b|\bcoke\s+(?:zero|float|bottle|can)\b|\bcrack\s+in\s+(?:the|my|a)\b",
    r"\b(?:beat|kill|crush|destroy|murder|slaughter)(?:s|ing)?\s+(?:\w+(?:'s)?\s+){1,3}?(?:at|in)\s+(?:\w+\s+){0,2}?(?:darts|chess|poker|cards|tennis|golf|pool|ping[- ]pong|bowling|video games?|games?|checkers|scrabble|monopoly|race|races|fifa|mario kart|trivia|football|basketball|badminton|squash|arm wrestling|uno|quiz|debate|fortnite|tag)\b",
    r"\b(?:drop|drops)\s+dead\s+gorgeous\b|\bto die for\b|\bdying to\b|\bdead\s*(?:lift\w*|line\w*|pan|heads?)\b|\bkilling me\b|\bdie\s+laughing\b",
    r"\bpick(?:s|ed|ing)?\s+(?:\w+\s+){0,2}?lock\s+(?:\w+\s+){0,3}?(?:screen|colou?r|style|brand|for my (?:bike|shed|locker))\b|\block\s*picking\s+(?:hobby|sport|club|competition)\b",
    r"\b(?:bomb|explosion|gun|shooting|fight|murder|poison|attack|kidnapping|heist|robbery)\s+(?:scene|in (?:my|the|a) (?:novel|story|film|movie|screenplay|game|book|play))\b",
]

_ACCOUNT = r"(?:accounts?|e-?mails?|phones?|computers?|laptops?|macbooks?|wi-?fi|networks?|servers?|databases?|systems?|facebook|instagram|snapchat|gmail|whatsapp|webcams?|cameras?|iclouds?|websites?|bank|atms?|router|passwords?|locker|messages|texts)"

# One entry per harm area; the name is what the verdict's reason shows.
HARMFUL: dict[str, list[str]] = {
    "self-harm": [
        r"\bkill(?:ing|s|ed)?\s+(?:my|your|him|her|them|our)sel(?:f|ves)\b",
        r"\bsuicid\w+\b",
        r"\bend(?:ing)?\s+my\s+(?:own\s+)?life\b",
        r"\b(?:slit|cut)(?:ting)?\s+(?:my|your)\s+wrists?\b",
        r"\bself[- ]?harm\w*\b",
        r"\b(?:cut|cutting|hurt|hurting|harm|burn|burning|starv\w+)\s+myself\b",
        r"\boverdos\w+\b",
        r"\b(?:pro-?ana|anorexi\w+|bulimi\w+)\b",
        r"\bbinge eat\b.*\bvomit\b",
        r"\bnot (?:to )?eat(?:ing)?\s+for\s+(?:a|two|\d+)\s+(?:week|days)\b",
        r"\bmyself from eating\b",
        r"\bburn\w*\s+my\s+skin\b",
        r"\bso skinny\b",
        r"\bworth me being alive\b",
        r"\bwant\s+to\s+die\b",
    ],
    "violence": [
        r"\brun (?:them|him|her|people|someone) over\b",
        r"\b(?:sexually harass|rape|raping|molest|grope)\w*\b",
        r"\bmake\s+(?:my|a|the)\s+(?:\w+\s+)?(?:dog|pitbull)\s+attack\b",
        rf"\b(?:kill|murder|strangl|stab|shoot|poison|assault|attack|hurt|injur|kidnap|electrocut|behead|drown|chok|tortur|maim|assassinat|drug|suffocat|run over|beat(?:ing)? up|beat|punch|lynch|abduct|harm|threaten|intimidat|ambush|sedat)(?:e|s|ed|ing|ting|ning)?\s+(?:\w+(?:'s)?\s+){{0,4}}?{_PERSON}\b",
        rf"\b(?:break|smash|cut off|crush)(?:ing)?\s+(?:\w+\s+)?{_PERSON}(?:'s)?\s+(?:jaw|legs?|arms?|neck|bones?|face|skull|fingers?|knees?)\b",
        r"\bpoison(?:ing)?\s+(?:\w+\s+){0,3}?(?:food|water|drink|coffee|tea|soup|well|supply|meal)\b",
        r"\b(?:untraceable|undetectable|deadly|lethal)\s+(?:poison|weapon|dose)s?\b",
        r"\bcut\s+(?:\w+(?:'s)?\s+){0,3}?(?:brakes?|breaks)\b",
        r"\bburn(?:ing)?\s+down\b",
        r"\bset(?:ting)?\s+fire\s+to\b(?! (?:the |some |my )?(?:logs?|charcoal|campfire|kindling|candles?|barbecue|grill|brandy|wood))|\barson\b",
        rf"\bset\s+(?:\w+\s+){{0,2}}?{_PERSON}(?:'s)?\s+\w+\s+on\s+fire\b",
        r"\bblow(?:ing)?\s+up\s+(?:\w+(?:'s)?\s+){0,3}?(?:car|house|home|building|bridge|school|train|plane|bus|church|mosque|office|mall|station|embassy|factory)\b",
        r"\b(?:plan|carry out|commit|start)(?:ning|ting|ing)?\s+(?:an?\s+)?(?:\w+\s+)?(?:attack|shooting|massacre|murder|riot|genocide|bombing|kidnapping|assassination)\b",
        r"\b(?:videos?|pictures?)\b.{0,30}\b(?:beheaded|killed|tortured)\b",
        r"\bhid(?:e|ing)\s+(?:a|the|my)\s+(?:dead\s+)?(?:body|corpse|knife|gun|murder weapon)\b",
        r"\bdispos\w+\s+of\s+(?:a|the)\s+(?:dead\s+)?(?:body|corpse)\b",
        r"\bhit\s?man\b",
    ],
    "weapons": [
        rf"\b{_GET}\w*\s+(?:\w+\s+){{0,4}}?(?:bombs?|explosives?|grenades?|molotovs?|pipe bombs?|ghost guns?|lethal guns?|silencers?|nerve (?:gas|agent)|napalm|chemical weapons?|bio-?weapons?|dirty bomb|land ?mines?|ied|ricin|sarin|anthrax|black market gun|machine guns?|untraceable guns?|illegal guns?|illegal weapons?)\b",
        r"\b3d[- ]print\w*\s+(?:\w+\s+){0,2}?guns?\b",
        r"\bguns?\b.{0,40}\b(?:on a plane|at school|to school|without (?:a )?(?:licen[cs]e|background))\b",
        r"\bguns?\b.{0,30}\bbackground checks?\b",
        r"\bblack market\b",
    ],
    "break-in and theft": [
        r"\b(?:rob|robbing)\s+(?:\w+\s+){0,3}?(?:pharmacy|gas station|liquor store|house|home|delivery)\b|\barmed robbery\b|\bhot[- ]wir(?:e|ing)\b",
        r"\b(?:easiest|best|which)\s+(?:\w+\s+){0,4}?to steal\b|\bhow (?:do|can|to) (?:i )?steal\b",
        rf"\b(?:destroy|vandali[sz]e|wreck|sabotage|key|slash)(?:ing)?\s+(?:\w+\s+){{0,2}}?{_PERSON}(?:'?s)?\s+(?:\w+\s+)?(?:boat|cars?|house|property|tires?|tyres?|computer|phone|garden|fence|business)\b",
        r"\bpick(?:ing)?\s+(?:\w+(?:'s)?\s+){0,4}?lock\b(?!.{0,40}\b(?:my own|locked (?:myself )?out|my (?:house|door|shed|car|bike|suitcase))\b)",
        rf"\bbreak(?:ing)?\s+(?:in(?:to)?|open)\s+(?:\w+(?:'s)?\s+){{0,4}}?(?:house|home|car|apartment|flat|shop|store|office|garage|safe|bank|warehouse|school|locker|building|atm|museum|{_ACCOUNT}|{_PERSON})\b",
        r"\bhot-?wir(?:e|ing)\b",
        r"\bburgl\w+\b",
        r"\bshop-?lift\w*\b",
        r"\bpickpocket\w*\b",
        r"\b(?:rob|robbing|mug|mugging|carjack|loot|looting)\s+(?:\w+\s+){0,3}?(?:bank|store|shop|house|museum|train|"
        + _PERSON
        + r")\b",
        r"\bsteal(?:ing)?\s+(?:\w+(?:'s)?\s+){0,4}?(?:passwords?|identit(?:y|ies)|credit cards?|cards?|cars?|bikes?|bicycles?|wallets?|money|data|packages?|parcels?|jewel\w+|phones?|laptops?|wi-?fi|cash|goods|mail|files|information|secrets|medicine|pills|electricity|motorbikes?|"
        + _PERSON
        + r")\b",
        r"\bstolen\s+(?:goods?|cars?|credit|cards?|bikes?|phones?|luxury|data|passports?)\b|\bgoods that i stole\b",
        r"\bdisabl\w+\s+(?:\w+(?:'s)?\s+){0,3}?(?:alarm|security (?:system|camera)s?)\b",
    ],
    "cybercrime": [
        rf"\blog\s*(?:in|on)?\s*(?:in)?to\s+(?:\w+\s+){{0,2}}?{_PERSON}'s\s+(?:\w+\s+)?{_ACCOUNT}",
        r"\b(?:install|hide|put|plant)\s+(?:\w+\s+){0,3}?(?:cameras?|microphones?|trackers?|gps)\b.{0,50}\b(?:without (?:them|him|her|anyone)|bedroom|bathroom|secretly|neighbou?r)\b",
        rf"\bhack(?:s|ed|ing)?\s+(?:in(?:to)?\b|(?:\w+(?:'s)?\s+){{0,4}}?{_ACCOUNT}\b|{_PERSON}\b)",
        r"\bhir(?:e|ing)\s+a\s+hacker\b",
        r"\b(?:spear[- ]?)?phish(?:ing|er)?\b",
        rf"\b{_GET}\w*\s+(?:\w+\s+){{0,4}}?(?:malware|ransomware|spyware|keyloggers?|trojans?|botnets?|computer virus(?:es)?|worms? that|ddos|rootkits?)\b",
        rf"\b(?:crack|guess|get|find|brute[- ]?forc\w+|bypass)(?:ing)?\s+(?:\w+\s+){{0,2}}?{_OWNER}\w*(?:'s)?\s+(?:\w+\s+){{0,2}}?(?:passwords?|pin|login|wi-?fi)\b",
        r"\bcrack(?:ing)?\s+(?:\w+(?:'s)?\s+){0,3}?(?:password|wi-?fi|software licen[cs]e)s?\b",
        r"\bddos\b(?!.{0,20}protect)",
        rf"\b(?:spy(?:ing)? on|track|bug|tap|monitor|intercept)\s+(?:\w+\s+){{0,2}}?{_PERSON}(?:'s)?\s+(?:\w+\s+){{0,2}}?(?:phone|texts|messages|calls|location|e-?mails?|car|secretly)\b",
        r"\bsecretly\s+(?:record|film|track|monitor|watch|photograph|follow)\b",
        r"\bdownload\w*\s+(?:\w+\s+){0,3}?illegally\b",
    ],
    "fraud": [
        r"\bcheat\w*\s+on\s+(?:\w+\s+){0,2}?(?:test|exam|sat|drug test|quiz|midterm|final)s?\b(?=.*\bcaught\b)",
        r"\bfak(?:e|ing)\s+(?:\w+\s+){0,4}?(?:condition|illness|disability|injury|prescription|symptoms)\b.{0,40}\b(?:to get|for|insurance|xanax|benefits)\b",
        r"\bchange\s+(?:\w+\s+){0,3}?expir(?:ation|y)\s+dates?\b|\bmake up (?:stuff|things|experience) on my (?:resume|cv)\b",
        r"\bforg(?:e|es|ed|ing)\s+(?:\w+(?:'s)?\s+){0,4}?(?:che(?:que|ck)s?|signatures?|documents?|passports?|prescriptions?|ids?|id cards?|certificates?|notes?|diplomas?|invoices?|tickets?|licen[cs]es?|visas?|wills?)\b",
        r"\bcounterfeit\w*\b",
        r"\b(?:fake|false|forged|madeup|made-up)\s+(?:\w+\s+)?(?:ids?|passports?|che(?:que|ck)s?|prescriptions?|charit(?:y|ies)|invoices?|reviews?|doctor'?s? notes?|licen[cs]es?|documents?|money|banknotes?|bills|call cent(?:re|er)|job scam|drop shipping|tax returns?|receipts?|insurance claims?|visas?|diplomas?)\b",
        r"\blaunder(?:ing)?\s+(?:\w+\s+){0,2}?(?:money|cash)\b|\bmoney launder\w+\b",
        r"\b(?:ponzi|pyramid)\s+scheme\w*\b",
        r"\bscam(?:s|med|ming|mers?)?\b",
        r"\b(?:evad|dodg)(?:e|ing)\s+(?:\w+\s+){0,2}?tax(?:es)?\b|\bhide\s+my\s+income\b|\bcheat(?:ing)?\s+on\s+(?:my|the)\s+tax\w*\b",
        rf"\b(?:exploit|trick|con|swindl|defraud|deceiv|manipulat|dup)(?:e|ing|s)?\s+(?:\w+\s+){{0,3}}?(?:{_PERSON}|vulnerable|elderly|pensioners?|seniors?)\b.{{0,60}}\b(?:money|cash|card|bank|savings|account|details|password)\b",
        rf"\b(?:find|target)\s+(?:\w+\s+){{0,2}}?{_PERSON}\s+to\s+(?:exploit|scam|rob)\b",
        r"\bconvinc\w+\s+(?:a\s+)?(?:strangers?|someone|people)\s+to\s+give\s+me\b",
        r"\bvulnerable\b.{0,40}\bexploit\b",
        r"\bblackmail\w*\b|\bextort\w*\b",
        r"\b(?:insurance|tax|credit card|wire|welfare|election|voter|mail|benefits?)\s+fraud\b|\bcommit\s+fraud\b",
        r"\binsider trad(?:ing|e)\b",
        r"\bembezzl\w+\b|\bbrib(?:e|es|ing)\s+(?:\w+\s+){0,3}?(?:officer|official|judge|cop|police\w*|inspector|teacher|politician)s?\b",
        r"\bimpersonat\w+\s+(?:\w+\s+){0,2}?(?:police|officer|doctor|bank|government|someone|lawyer|judge)\b",
        r"\bcredit card (?:details|numbers?)\b",
    ],
    "drugs and illegal goods": [
        r"\bmeth lab\b|\bto get high\b|\bsell\s+(?:\w+\s+){0,3}?(?:weed|marijuana|cannabis)\b|\bdrugs to inject\b",
        rf"\b{_GET}\w*\s+(?:\w+\s+){{0,5}}?(?:meth|methamphetamine|crystal meth|cocaine|heroin|crack cocaine|mdma|lsd|fentanyl|ecstasy|illegal drugs|illegal \w+ drugs|hard drugs|drugs|unregulated steroids|steroids|opioids|pseudoephedrine|ephedrine|moonshine|ghb|ketamine|contraband)\b",
        r"\bdrug\s+dealer\b",
        r"\bhid(?:e|ing)\s+(?:my|the)\s+(?:meth|drugs|weed|cocaine|pills)\b",
        r"\b(?:pure )?heroin\b",
        r"\balcohol\b.{0,20}\b(?:underage|minors|kids)\b",
        r"\billegally\s+(?:sell|buy|get|own|carry|import|enter|cross)\b",
        r"\bsell\s+my\s+organs\b|\borgans?\s+for\s+money\b",
        r"\b(?:dark ?web|darknet)\b",
        r"\bsmuggl\w+\b",
        r"\bdr(?:ug|ugging)\s+(?:\w+(?:'s)?\s+){0,3}?drink\b|\bspik(?:e|ing)\s+(?:\w+(?:'s)?\s+){0,3}?drink\b",
        r"\b(?:getting|hiring|for)\s+escorts\b",
        r"\bnot card people\b|\bwithout (?:showing )?(?:an? )?id\b",
        r"\bwithout\s+(?:getting|being)\s+caught\b|\bwithout\s+(?:any )?paperwork\b|\bcover\s+(?:up )?my\s+tracks\b|\bfrom the (?:police|cops)\b|\bnot identified when\b",
    ],
    "minors": [
        r"\b(?:child(?:ren)?|kids?|under-?age|minors?|toddlers?|\d+[- ]year[- ]old|little (?:girl|boy)s?)\b.{0,80}\b(?:sex\w*|porn\w*|naked|nudes?|genital\w*|penis|dick|boner|erotic|undress\w*|masturbat\w*|love between)\b",
        r"\b(?:sex\w*|porn\w*|naked|nudes?|genital\w*|penis|dick|boner|erotic|masturbat\w*|romantic love)\b.{0,80}\b(?:child(?:ren)?|kids?|under-?age|minors?|toddlers?)\b",
        r"\bp(?:a)?edophil\w*\b",
        r"\bgroom(?:ing)?\s+(?:a\s+)?(?:child|kid|minor|teen)\w*\b",
    ],
    "hate and harassment": [
        r"\bhome address(?:es)?\s+(?:of|for)\b|\b(?:what is|find|get|locate)\b.{0,60}\b(?:home|residential)\s+address\b",
        r"\b(?:jews|blacks|black people|muslims|gays|gay people|fags|faggots|immigrants|mexicans|women)\s+(?:will not replace|deserve|should be (?:neutered|killed|shot|banned|deported)|are (?:inferior|vermin|animals))\b",
        r"\b(?:say|write)\s+something\s+(?:offensive|racist|hateful)\b.{0,40}\b(?:racially|about|to)\b|\binsults?\s+for\s+(?:people|jews|muslims|blacks|gays|women|asians|mexicans)\b",
        r"\b(?:racist|antisemitic|anti-semitic|homophobic|sexist|hateful|islamophobic|transphobic)\s+(?:jokes?|slogans?|posts?|tweets?|songs?|speech|rants?|poems?|messages?|insults?|comments?)\b",
        rf"\b(?:stalk|dox+|harass|bully|cyber-?bully|humiliat|gaslight)(?:e|ing)?\s+(?:\w+\s+){{0,3}}?{_PERSON}\b",
        r"\bspread(?:ing)?\s+(?:\w+\s+){0,2}?(?:rumou?rs?|lies)\s+about\b",
        rf"\bfind\s+(?:out\s+)?where\s+(?:my ex|{_PERSON})\s+lives?\b",
        rf"\brevenge\s+porn\b|\bdeep-?fakes?\s+(?:\w+\s+){{0,3}}?{_PERSON}\b",
    ],
}

# Any of these, left after masking, makes a request risky rather than plain.
RISKY = r"\b(?:kill|murder|bomb|explo(?:de|siv)|gun|weapon|poison|stab|shoot|hack|steal|stole|rob(?:ber|bing|bed|bery)|drugs?|meth|cocaine|heroin|weed|illegal|crime|criminal|suicid|self-harm|die|dead|death|hurt|harm|attack|assault|violen|porn|sex|naked|nude|malware|virus|password|phish|scam|fraud|fake|forge|launder|smuggl|blackmail|terror|racist|hate|slur|knife|lock|burn|break into|spy|stalk|overdose|pills?|dosage|alcohol|underage|weapon|explosive|track(?:ing)? (?:my|someone)|secretly|cheat|pirat(?:ed|ing)|torrent|crack|destroy|abus)\w*"

# "How do I protect myself from phishing" asks for the opposite of harm.
PROTECTIVE = r"\b(?:prevent\w*|avoid\w*|protect\w*|detect\w*|recogni[sz]\w+|report(?:ing|ed)?|defend\w*|spot(?:ting)?|secur(?:e|ing)|against|victims? of|recover(?:ing)? from|remov(?:e|ing)|get rid of|awareness|stay safe|safe from|teach\w* .{0,40}about|history of|laws? (?:on|about|against)|explain what|what is (?:a |an )?|signs of|warn\w*|fight|combat|tell if|know if|stop(?:ping)?|block(?:ing)?|been|fell for|was|were|got)\W+(?:[\w'-]+\W+){0,5}$"
EVASIVE = r"\b(?:caught|police|cops|detect(?:ed|ion)|suspicion|tax(?:es)?|getting found)\b"

DEFLECTION = [
    r"\b(?:illegal|against the law|a crime|unethical|dangerous|wrong to|harmful|not okay|not ok|not safe|unsafe)\b",
    r"\b(?:please\s+)?(?:reach out|talk to|speak (?:to|with)|contact|call)\s+(?:\w+\s+){0,3}?(?:someone|professional|doctor|therapist|counsel\w+|hotline|helpline|988|911|police|authorities|samaritans|friend|lawyer|locksmith|support)\b",
    r"\b(?:please )?(?:don'?t|do not|never|you should(?:n't| not))\s+(?:do|try|hurt|kill|harm|attempt|steal|hack|make|buy|even)\b",
]
COMPLIANCE = r"\b(?:here(?:'s| is| are)\s+(?:how|what|the|a|some|your|one)|first,|step (?:1|one)\b|start (?:by|with)|you(?:'ll)? (?:will )?need\b|you (?:can|could|should) (?:use|try|start|buy|mix|get|take|slip)|just (?:use|mix|take|grab|slip|put|add|send)|then (?:you|add|mix|take|put|slip|use)|sure[,!]|of course[,!]|no problem|easy[,!:])"
INSTEAD = r"\b(?:instead|safer|legal(?:ly)?|happy to help with|something else|other ways?|rather)\b"
