ALTER TABLE call SET (fillfactor = 50);

ALTER TABLE place SET (fillfactor = 67);
