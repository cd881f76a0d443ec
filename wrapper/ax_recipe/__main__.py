"""`python -m ax_recipe` and the ax-recipe command."""

from ax_recipe.cli import main

if __name__ == "__main__":
    main()
