-- name: add_task
INSERT INTO tasks
  (id, task_id, app_id, app_digest, name, owner, status, created_at, started_at, deadline, updated_at, creation,
   creations, env_id, prerequisites, min_memory, restarts, failures, failures_in_row, losses_in_row, assigned,
   status_message, publish_to, published, stale_outputs, restarted_as)
VALUES
  (:id, :task_id, :app_id, :app_digest, :name, :owner, :status, :created_at, :started_at, :deadline, :updated_at,
   :creation, :creations, :env_id, :prerequisites, :min_memory, :restarts, :failures, :failures_in_row,
   :losses_in_row, :assigned, :status_message, :publish_to, :published, :stale_outputs, :restarted_as)

-- name: add_file
INSERT INTO files (task, file) VALUES (?, ?)

-- name: task_status
SELECT status, creation FROM tasks WHERE id = ?

-- name: touch
UPDATE tasks SET updated_at = :now WHERE id = :id

-- name: creating
UPDATE tasks SET creation = 'sent', creations = creations + 1, updated_at = :now WHERE id = :id

-- name: created_anew
UPDATE tasks SET task_id = :task_id, creation = 'unsent', updated_at = :now WHERE id = :id

-- name: created
UPDATE tasks
SET status = 'waiting', creation = 'replied', started_at = :now, deadline = :now + :within, env_id = :env_id,
  prerequisites = :prerequisites, min_memory = :min_memory, updated_at = :now
WHERE id = :id

-- name: restarted
UPDATE tasks SET restarts = restarts + 1, updated_at = :now WHERE id = :id

-- name: restarted_as
UPDATE tasks SET restarted_as = :successor, updated_at = :now WHERE id = :id

-- name: published
UPDATE tasks SET published = 1, stale_outputs = :stale, updated_at = :now WHERE id = :id

-- name: end
UPDATE tasks SET status = :status, status_message = :message, updated_at = :now WHERE id = :id

-- name: end_subtasks
UPDATE subtasks SET status = :status, code = :code, finished_at = :now, parked = 0
WHERE task = :id AND status IN ('starting', 'downloading', 'verifying')

-- name: forget_asked
DELETE FROM asked WHERE task = ?

-- name: ask
INSERT INTO asked (id, task, slot, node_id) VALUES (?, ?, ?, ?)

-- name: answered
DELETE FROM asked WHERE id = ? RETURNING task, node_id

-- name: assigned
UPDATE tasks SET status = 'computing', assigned = assigned + 1, updated_at = :now WHERE id = :id RETURNING assigned

-- name: assign
INSERT INTO subtasks
  (id, task, number, slots, node_id, status, parameters, resources, jobs, started_at, deadline, finished_at, file, size,
   digest, verdict, reason, code, parked, verifications, owed, discard, usage)
VALUES
  (:id, :task, :number, :slots, :node_id, :status, :parameters, :resources, :jobs, :started_at, :deadline, :finished_at,
   :file, :size, :digest, :verdict, :reason, :code, :parked, :verifications, :owed, :discard, :usage)

-- name: subtask_status
SELECT task, status FROM subtasks WHERE id = ?

-- name: verifying
UPDATE subtasks SET status = 'verifying', file = :file, size = :size, digest = :digest, usage = :usage WHERE id = :id

-- name: asked_verdict
UPDATE subtasks SET verifications = verifications + 1, parked = 0 WHERE id = ? AND status = 'verifying'

-- name: park
UPDATE subtasks SET parked = 1 WHERE id = ? AND status = 'verifying'

-- name: conclude
UPDATE subtasks
SET status = :status, verdict = :verdict, reason = :reason, code = :code, owed = :owed, parked = 0, finished_at = :now,
  usage = coalesce(:usage, usage)
WHERE id = :id

-- name: count
UPDATE tasks
SET failures = :failures, failures_in_row = :failures_in_row, losses_in_row = :losses_in_row, updated_at = :now
WHERE id = :id

-- name: attribute
INSERT INTO attributions (task, subtask, path) VALUES (?, ?, ?) ON CONFLICT DO NOTHING

-- name: abort_told
UPDATE subtasks SET owed = 0 WHERE id = ? AND owed

-- name: discarding
UPDATE subtasks SET discard = 'sent' WHERE id = ?

-- name: discarded
UPDATE subtasks SET discard = 'replied' WHERE task = ? AND discard = 'sent'

-- name: restart_subtask
UPDATE subtasks SET status = 'restarted', parked = 0, finished_at = coalesce(finished_at, :now) WHERE id = :id

-- name: finished
SELECT count FROM counts WHERE task = ? AND status = 'finished'

-- name: drop_subtasks
DELETE FROM subtasks WHERE n IN (SELECT n FROM subtasks WHERE task = ? LIMIT ?)

-- name: drop_task
DELETE FROM tasks WHERE id = ?

-- name: add_benchmark
INSERT OR REPLACE INTO benchmarks (env_id, prereq_hash, score, at) VALUES (:env_id, :prereq_hash, :score, :at)

-- name: clear_benchmarks
DELETE FROM benchmarks
