"""What a link keeps on this disk, one owner for each kind of knowledge; nothing here asks a workspace."""
