-- name: numbers
SELECT json_group_array(number) AS numbers FROM (
  SELECT {place} AS number FROM {source} WHERE {driver} AND {place} < :before AND {sifts}
  ORDER BY {place} DESC LIMIT :limit
)

-- name: numbered
SELECT * FROM job_rows WHERE n IN (SELECT value FROM json_each(:numbers)) AND {sifts} ORDER BY n DESC

-- name: sifts
(:owner IS NULL OR owner = :owner)
  AND (:app_id IS NULL OR app_id = :app_id)
  AND (:network IS NULL OR network = :network)
  AND (:state IS NULL OR state = :state)
  AND (:ended IS NULL OR (finished_at IS NOT NULL) = :ended)
  AND (:parent_id IS NULL OR parent_id = :parent_id)
  AND (:labels IS NULL OR NOT EXISTS (
    SELECT 1 FROM json_each(:labels) AS wanted WHERE NOT EXISTS (
      SELECT 1 FROM job_labels AS has WHERE has.key = wanted.key AND has.value = wanted.value AND has.job = n)))

-- name: place
SELECT n FROM jobs WHERE id = ?

-- name: ready
SELECT * FROM job_rows WHERE state = 'queued' AND lane IS NULL AND blocked = 0 ORDER BY n LIMIT ?

-- name: lane
SELECT id FROM jobs WHERE state = 'queued' AND lane = ? AND blocked = 0 ORDER BY n

-- name: ahead
SELECT count(*) AS ahead FROM (
  SELECT 1 FROM jobs
  WHERE state = 'queued' AND blocked = 0 AND lane IS (SELECT lane FROM jobs WHERE n = :n) AND n < :n LIMIT 1000
)

-- name: waiting_for
SELECT leaders.id FROM job_after CROSS JOIN jobs AS leaders ON leaders.n = job_after.leader
WHERE job_after.follower = ?
ORDER BY job_after.leader

-- name: next_expiry
SELECT min(expires_at) AS expiry FROM jobs WHERE expires_at IS NOT NULL

-- name: counts
SELECT state, count FROM job_counts
