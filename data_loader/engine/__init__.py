"""How samples become batches. You seldom need to change anything here."""
