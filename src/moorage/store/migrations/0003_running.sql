-- The attempt of a running job is its last one: it is found by way of the job.
DROP INDEX attempts_open;

-- Few jobs run at a time: those of an owner or app are found among all that run.
DROP INDEX jobs_by_owner_state;
DROP INDEX jobs_by_app_state;
CREATE INDEX jobs_by_owner_state ON jobs (owner, state) WHERE state <> 'running';
CREATE INDEX jobs_by_app_state ON jobs (app_id, state) WHERE state <> 'running';
