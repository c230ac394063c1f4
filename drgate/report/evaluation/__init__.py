"""The pages of one evaluation: terminal, HTML, Markdown and JUnit."""
