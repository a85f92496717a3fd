-- name: insert
INSERT INTO tokens (name, sha256, operator, created_at) VALUES (?, ?, ?, ?)

-- name: all
SELECT * FROM tokens ORDER BY name

-- name: delete
DELETE FROM tokens WHERE name = ?
