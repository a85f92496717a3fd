ALTER TABLE jobs ADD COLUMN lane TEXT; -- the queue in which it waits; NULL is the engine's

-- `blocked` first: the planner takes `lane IS NULL` for a search worse than one by state alone.
DROP INDEX jobs_ready;
CREATE INDEX jobs_ready ON jobs (blocked, lane) WHERE state = 'queued';

CREATE INDEX jobs_ended ON jobs (owner, finished_at) WHERE finished_at IS NOT NULL;

-- Without it the foreign key has every label looked at for each job that is forgotten.
CREATE INDEX job_labels_by_job ON job_labels (job);

CREATE TRIGGER jobs_counted_gone AFTER DELETE ON jobs BEGIN
  UPDATE job_counts SET count = count - 1 WHERE state = old.state;
END;
