"""The attributes of a domain's items as a tensor, for the models that learn from them."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_lab.data.item_attributes import item_attributes
from genrec_lab.models.sequential.domain_items import DomainItems


def attributes_of(domain: DomainItems, least_items: int) -> Tensor:
    """Return (N, A) bool, which attributes the items have by the rule of `data/item_attributes.py`.

    Raises ValueError where the domain has no table of words, DataError where no attribute is left.
    """
    if domain.words is None:
        raise ValueError("the domain's items have no table of words; give DomainItems(…, words=…)")
    return torch.from_numpy(item_attributes(domain.words, least_items).of_items)
