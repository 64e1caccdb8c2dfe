"""Small tasks that leave a small model room to fail."""
