-- name: insert
INSERT INTO apps
  (id, network, name, owner, state, digest, size, files, manifest, meta, layers, deploy, published, created_at,
   updated_at, error)
VALUES
  (:id, :network, :name, :owner, :state, :digest, :size, :files, :manifest, :meta, :layers, :deploy, :published,
   :created_at, :updated_at, :error)

-- name: get
SELECT * FROM app_rows WHERE id = ?

-- name: update
UPDATE apps SET
  state = :state, name = :name, digest = :digest, size = :size, files = :files, manifest = :manifest, meta = :meta,
  layers = :layers, deploy = :deploy, published = :published, updated_at = :updated_at, error = :error
WHERE id = :id

-- name: list
SELECT * FROM app_rows
WHERE n < coalesce(:before, 9223372036854775807)
  AND (:owner IS NULL OR owner = :owner)
  AND (:network IS NULL OR network = :network)
  AND (:name IS NULL OR name = :name)
  AND (:state IS NULL OR state = :state)
  AND (:visible_to IS NULL OR owner = :visible_to OR published)
ORDER BY n DESC
LIMIT :limit

-- name: place
SELECT n FROM apps WHERE id = ?
