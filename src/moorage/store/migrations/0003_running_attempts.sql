-- The attempt of a running job is its last one: it is found by way of the job.
DROP INDEX attempts_open;
