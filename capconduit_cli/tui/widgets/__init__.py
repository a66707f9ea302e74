"""What draws: lines of styled pieces, and the table that draws only the rows that are seen."""
