"""The work behind the notebooks, a function a stage, and readers of what the stages wrote."""

from genrec_lab.run.stages.adapting import adapt_to_domains, load_adapted
from genrec_lab.run.stages.evaluating import Rankings, compare_beam_with_exact, load_rankings, rank_test_users
from genrec_lab.run.stages.preparing import Prepared, load_prepared, prepare_data
from genrec_lab.run.stages.recommending import load_history, load_recommender, train_recommenders
from genrec_lab.run.stages.tokenizing import Identified, load_identified, load_vectors, train_tokenizers

__all__ = [
    "Identified",
    "Prepared",
    "Rankings",
    "adapt_to_domains",
    "compare_beam_with_exact",
    "load_adapted",
    "load_history",
    "load_identified",
    "load_prepared",
    "load_rankings",
    "load_recommender",
    "load_vectors",
    "prepare_data",
    "rank_test_users",
    "train_recommenders",
    "train_tokenizers",
]
