"""The work behind the notebooks, a function a stage, and readers of what the stages wrote."""

from genrec_lab.run.stages.adapting import adapt_to_domains, load_adapted
from genrec_lab.run.stages.bounds import floor_and_ceiling
from genrec_lab.run.stages.checking import Machine, check_machine, matmul_speed
from genrec_lab.run.stages.evaluating import Rankings, compare_beam_with_exact, load_rankings, rank_test_users
from genrec_lab.run.stages.mapping import Atlas, codeword_sums, comparable_codes, load_atlas, map_residuals
from genrec_lab.run.stages.policies import compare_policies
from genrec_lab.run.stages.preparing import Prepared, load_prepared, prepare_data
from genrec_lab.run.stages.recommending import load_history, load_recommender, train_recommenders
from genrec_lab.run.stages.tokenizing import Identified, load_identified, load_vectors, train_tokenizers

__all__ = [
    "Atlas",
    "Identified",
    "Machine",
    "Prepared",
    "Rankings",
    "adapt_to_domains",
    "check_machine",
    "codeword_sums",
    "comparable_codes",
    "compare_beam_with_exact",
    "compare_policies",
    "floor_and_ceiling",
    "load_adapted",
    "load_atlas",
    "load_history",
    "load_identified",
    "load_prepared",
    "load_rankings",
    "load_recommender",
    "load_vectors",
    "map_residuals",
    "matmul_speed",
    "prepare_data",
    "rank_test_users",
    "train_recommenders",
    "train_tokenizers",
]
