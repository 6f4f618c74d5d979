-- Before effects are counted, on PostgreSQL: wait for all who are writing tallies, and keep others from it until the COMMIT.
-- Before the batch's first row, as everybody touches events before tallies: in another order two could wait for each other.
LOCK TABLE tasks_demo_tally IN SHARE ROW EXCLUSIVE MODE
