"""The topics of ``ax-recipe explain``, with the numbers of one training in them."""
