"""The results as plain data, and their faces: JSON, text for a terminal, HTML, Markdown and JUnit XML."""
