"""What every project trains and evaluates with."""
