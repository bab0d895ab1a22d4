"""Evaluation: ranking metrics, the health of codes, and paired significance."""

from genrec_lab.codes import CodeHealth, DomainSharing, code_health, domain_sharing, prefix_entropy
from genrec_lab.evaluation.codebook import health_table, neighbour_code_overlap
from genrec_lab.evaluation.ranking import (
    METRICS,
    RankingError,
    metric_needs,
    metric_per_user,
    metrics_table,
    mrr_per_user,
    ndcg_at_k,
    ndcg_per_user,
    recall_at_k,
    recall_per_user,
    register_metric,
    user_weighted_average,
)
from genrec_lab.evaluation.significance import (
    PairedResult,
    RankTest,
    SignificanceError,
    paired_bootstrap,
    paired_t_test,
    paired_wilcoxon,
)

__all__ = [
    "METRICS", "CodeHealth", "DomainSharing", "PairedResult", "RankTest", "RankingError",
    "SignificanceError", "code_health", "domain_sharing", "health_table", "metric_needs",
    "metric_per_user", "metrics_table", "mrr_per_user", "ndcg_at_k", "ndcg_per_user",
    "neighbour_code_overlap", "paired_bootstrap", "paired_t_test", "paired_wilcoxon", "prefix_entropy",
    "recall_at_k", "recall_per_user", "register_metric", "user_weighted_average",
]  # fmt: skip
