"""What commands return, a file for each family, and how it is written as text, HTML and charts."""
