"""Named corpora and nights: the sample's, the paper's WebText, and its public replications.

Values only; modules/presets.py makes whole runs of them.
"""

from modules.corpus.crawl import FetchConfig
from modules.corpus.dedup import DedupConfig
from modules.corpus.extract import ExtractConfig
from modules.corpus.links import LinksConfig
from modules.corpus.recipe import CleanConfig, FilterConfig
from modules.run import CorpusConfig, NightlyConfig, TokenizerConfig

# --- inputs --------------------------------------------------------------------------------------

SAMPLE_CORPUS = CorpusConfig(
    name="sample",
    dumps=("web/RS_2018-09.xz", "web/RS_2018-11.zst", "web/RS_2018-12.zst"),
    warcs=("web/pages-00000.warc.gz", "web/pages-00001.warc.gz"),
    extra=("lm/train.jsonl.zst", "lm/val.jsonl.zst", "lm/test.jsonl.zst"),
    # The sample is judged by its truth file, which knows neither blocklists nor marks nor length.
    links=LinksConfig(keep_over_18=True, blocklist="none", block_extensions=False),
    clean=CleanConfig(filters=FilterConfig(min_words=20)),
    # A small vocabulary for a small corpus: most of a tiny model would be embeddings otherwise.
    tokenizer=TokenizerConfig(vocab_size=1024),
)
OWN_CORPUS = CorpusConfig(  # the user's: --set corpus.dumps=... and corpus.warcs=...
    name="webtext", dumps=(), warcs=(), tokenizer=TokenizerConfig(vocab_size=50257)
)

# --- the replications of WebText (reference/gpt2.md, section 4.1), by their own files ------------
# All go by one list of hosts and of endings, and extract with Newspaper, which takes the article
# out of a page; `quality` comes nearest to it here.

JCPETERSON = OWN_CORPUS.but(  # jcpeterson/openwebtext
    name="jcpeterson",
    links=LinksConfig(
        min_karma=3,  # extract_urls.py: score >= 3, of each submission; not over_18
        karma="submission",
        blocklist="replications",  # url_utils.py
    ),
    extract=ExtractConfig(extractor="quality", min_words=1),  # no length rule
    clean=CleanConfig(
        filters=FilterConfig(languages=(), min_words=0),  # neither a language nor a length rule
        dedup=None,  # deduplicate_urls.py: addresses only
    ),
)
OPENWEBTEXT = JCPETERSON.but(  # Gokaslan and Cohen 2019, "OpenWebTextCorpus" (data set card)
    name="openwebtext",
    clean=CleanConfig(
        filters=FilterConfig(
            languages=("en",),  # fastText, English only
            min_words=96,  # 128 tokens
        ),
        dedup=DedupConfig(
            near_threshold=0.5,  # similarity above 0.5 is removed
            ngram=5,  # sets of 5-grams
        ),
    ),
)
OPENWEBTEXT2 = JCPETERSON.but(  # EleutherAI/openwebtext2
    name="openwebtext2",
    links=LinksConfig(
        min_karma=3,
        karma="sum",  # filter_from_reddit_scores.py: total of an address's submissions >= 3
        keep_over_18=True,  # process_dump_files_sqlite.py: only self posts are left out
        blocklist="replications",  # scraping/filter.py
    ),
    clean=CleanConfig(
        filters=FilterConfig(languages=(), min_words=0),  # languages noted, none dropped
        dedup=DedupConfig(
            near_threshold=0.5,  # minhash_lsh_dedupe.py
            ngram=5,  # generate_minhashes.py: words
            permutations=10,  # generate_minhashes.py
            bands=3,  # of 3 numbers: what datasketch takes for 0.5 and 10 permutations
            verify=False,  # minhash_lsh_dedupe.py: agreeing in a band is enough
        ),
    ),
)
MEGATRON = JCPETERSON.but(  # NVIDIA/Megatron-LM, tools/openwebtext, on jcpeterson's addresses
    name="megatron",
    clean=CleanConfig(
        filters=FilterConfig(
            languages=("en",),  # cleanup_dataset.py: langdetect
            min_words=96,  # cleanup_dataset.py: 128 tokens
        ),
        dedup=DedupConfig(
            near_threshold=0.9,  # README.md, step 3; group_duplicate_url.py itself says 0.7
            ngram=5,  # find_duplicates.py
            ngram_unit="character",  # find_duplicates.py
            permutations=100,  # find_duplicates.py: num-seeds
            bands=10,  # find_duplicates.py: num-bands
            grouping="components",  # group_duplicate_url.py merges groups that share a page
        ),
    ),
)
# --- nights ---------------------------------------------------------------------------------------

SAMPLE_NIGHT = NightlyConfig(corpus=SAMPLE_CORPUS.but(name="nightly"))
OWN_NIGHT = NightlyConfig(corpus=OWN_CORPUS, fetch=FetchConfig())  # --set fetch.contact=...
NIGHTS = {"sample": SAMPLE_NIGHT, "webtext": OWN_NIGHT}

CORPORA = {
    corpus.name: corpus
    for corpus in (SAMPLE_CORPUS, OWN_CORPUS, JCPETERSON, OPENWEBTEXT, OPENWEBTEXT2, MEGATRON)
}
