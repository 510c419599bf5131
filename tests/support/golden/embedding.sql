-- connection
CREATE CONNECTION IF NOT EXISTS `my-project.us.imagery`
OPTIONS (connection_type = 'CLOUD_RESOURCE', friendly_name = 'imagebeam');

-- object table
CREATE EXTERNAL TABLE IF NOT EXISTS `my-project.answers._images_ab3e84d4`
WITH CONNECTION `my-project.us.imagery`
OPTIONS (
  object_metadata = 'SIMPLE',
  uris = ['gs://my-bucket/obs/*.jpg', 'gs://my-bucket/more/*'],
  max_staleness = INTERVAL 240 MINUTE,
  metadata_cache_mode = 'MANUAL'
);

-- object table, always new, default connection
CREATE EXTERNAL TABLE IF NOT EXISTS `my-project.answers._images_ab3e84d4`
WITH CONNECTION DEFAULT
OPTIONS (
  object_metadata = 'SIMPLE',
  uris = ['gs://my-bucket/obs/*.jpg', 'gs://my-bucket/more/*']
);

-- refresh
CALL BQ.REFRESH_EXTERNAL_METADATA_CACHE('my-project.answers._images_ab3e84d4');

-- model
CREATE MODEL IF NOT EXISTS `my-project.answers.multimodalembedding_001_ce6de3b8`
REMOTE WITH CONNECTION `my-project.us.imagery`
OPTIONS (ENDPOINT = 'multimodalembedding@001');

-- model by URL, default connection
CREATE MODEL IF NOT EXISTS `my-project.answers.multimodalembedding_001_ce6de3b8`
REMOTE WITH CONNECTION DEFAULT
OPTIONS (ENDPOINT = 'https://us-central1-aiplatform.googleapis.com/v1/projects/other/locations/us-central1/publishers/google/models/multimodalembedding@001');

-- pending
CREATE TABLE `my-project.answers._embed_b7c5efba_0123456789ab_p1`
OPTIONS (
  description = '{"task":"embed/multimodalembedding@001/512","version":"f2010f1c1782","model":"multimodalembedding@001","dimension":512,"run_id":"20261121-063000-abcdef"}',
  expiration_timestamp = TIMESTAMP_ADD(CURRENT_TIMESTAMP(), INTERVAL 30 DAY)
)
AS
SELECT numbered.* EXCEPT (position),
  IF(numbered.has_uri, IF(position < 10, 0, 1 + DIV(position - 10, 200000)), -1) AS chunk
FROM (
  SELECT found.*,
    ROW_NUMBER() OVER (PARTITION BY found.has_uri ORDER BY found.unit_id) - 1 AS position
  FROM (
    SELECT remaining.counts, remaining.unit_id, remaining.unit_type, remaining.input_digest, remaining.asset_id, remaining.asset_type, remaining.snapshot_id, remaining.capture_time, remaining.latitude, remaining.longitude, remaining.map_url, remaining.extra,
      remaining.images[SAFE_OFFSET(0)].observation_id AS observation_id,
      remaining.images[SAFE_OFFSET(0)].uri AS uri,
      STARTS_WITH(IFNULL(remaining.images[SAFE_OFFSET(0)].uri, ''), 'gs://') AS has_uri
    FROM (
SELECT * FROM `my-project.somewhere.due_units`
    ) AS remaining
  ) AS found
) AS numbered;

-- chunks
SELECT chunk, COUNT(*) AS units
FROM `my-project.answers._embed_b7c5efba_0123456789ab_p1`
WHERE unit_id IS NOT NULL
GROUP BY chunk
ORDER BY chunk;

-- source counts
SELECT counts FROM `my-project.answers._embed_b7c5efba_0123456789ab_p1` LIMIT 1;

-- embed from URIs
CREATE TABLE `my-project.answers._embed_b7c5efba_0123456789ab_p1_c1`
OPTIONS (
  description = 'imagebeam: chunk 1',
  expiration_timestamp = TIMESTAMP_ADD(CURRENT_TIMESTAMP(), INTERVAL 30 DAY)
)
AS
SELECT classified.* EXCEPT (status_reason),
  SPLIT(classified.status_reason, '/')[OFFSET(0)] AS outcome,
  SPLIT(classified.status_reason, '/')[SAFE_OFFSET(1)] AS reason
FROM (
  SELECT answered.*,
    CASE
      WHEN answered.status = '' AND ARRAY_LENGTH(answered.embedding) = 512 AND NOT EXISTS (
        SELECT 1 FROM UNNEST(answered.embedding) AS number
        WHERE number IS NULL OR IS_NAN(number) OR IS_INF(number))
        AND EXISTS (SELECT 1 FROM UNNEST(answered.embedding) AS number WHERE number != 0) THEN 'OK'
      WHEN answered.status = '' THEN 'INVALID_ANSWER/WRONG_VECTOR'
      WHEN STARTS_WITH(answered.status, 'A retryable error occurred:') THEN 'UNAVAILABLE/RETRYABLE'
      WHEN REGEXP_CONTAINS(answered.status, r'(?i)permission|forbidden|access denied|unauthori[sz]ed') THEN 'IMAGE_ERROR/FORBIDDEN'
      WHEN REGEXP_CONTAINS(answered.status, r'(?i)not.?found|does not exist|no such object') THEN 'IMAGE_ERROR/NOT_FOUND'
      WHEN REGEXP_CONTAINS(answered.status, r'(?i)too large|exceeds the (limit|maximum)') THEN 'IMAGE_ERROR/TOO_LARGE'
      WHEN REGEXP_CONTAINS(answered.status, r'(?i)unsupported|mime type') THEN 'IMAGE_ERROR/UNSUPPORTED'
      WHEN REGEXP_CONTAINS(answered.status, r'(?i)unable to process|cannot be processed|not valid|decod|corrupt') THEN 'IMAGE_ERROR/UNREADABLE'
      WHEN REGEXP_CONTAINS(answered.status, r'(?i)safety|blocked|prohibited') THEN 'BLOCKED/SAFETY'
      ELSE 'BAD_REQUEST/REFUSED'
    END AS status_reason
  FROM (
    SELECT pending.unit_id, pending.input_digest, answers.embedding,
      IF(answers.unit_id IS NULL, 'NOT_FOUND: no answer', IFNULL(answers.status, '')) AS status
    FROM `my-project.answers._embed_b7c5efba_0123456789ab_p1` AS pending
    LEFT JOIN AI.GENERATE_EMBEDDING(
      MODEL `my-project.answers.multimodalembedding_001_ce6de3b8`,
      (
        SELECT pending.unit_id, OBJ.MAKE_REF(pending.uri, 'my-project.us.imagery') AS content
        FROM `my-project.answers._embed_b7c5efba_0123456789ab_p1` AS pending
        WHERE pending.chunk = 1
      ),
      STRUCT(512 AS output_dimensionality)
    ) AS answers
      ON answers.unit_id = pending.unit_id
    WHERE pending.chunk = 1
  ) AS answered
) AS classified;

-- embed from URIs, default connection
CREATE TABLE `my-project.answers._embed_b7c5efba_0123456789ab_p1_c1`
OPTIONS (
  description = 'imagebeam: chunk 1',
  expiration_timestamp = TIMESTAMP_ADD(CURRENT_TIMESTAMP(), INTERVAL 30 DAY)
)
AS
SELECT classified.* EXCEPT (status_reason),
  SPLIT(classified.status_reason, '/')[OFFSET(0)] AS outcome,
  SPLIT(classified.status_reason, '/')[SAFE_OFFSET(1)] AS reason
FROM (
  SELECT answered.*,
    CASE
      WHEN answered.status = '' AND ARRAY_LENGTH(answered.embedding) = 512 AND NOT EXISTS (
        SELECT 1 FROM UNNEST(answered.embedding) AS number
        WHERE number IS NULL OR IS_NAN(number) OR IS_INF(number))
        AND EXISTS (SELECT 1 FROM UNNEST(answered.embedding) AS number WHERE number != 0) THEN 'OK'
      WHEN answered.status = '' THEN 'INVALID_ANSWER/WRONG_VECTOR'
      WHEN STARTS_WITH(answered.status, 'A retryable error occurred:') THEN 'UNAVAILABLE/RETRYABLE'
      WHEN REGEXP_CONTAINS(answered.status, r'(?i)permission|forbidden|access denied|unauthori[sz]ed') THEN 'IMAGE_ERROR/FORBIDDEN'
      WHEN REGEXP_CONTAINS(answered.status, r'(?i)not.?found|does not exist|no such object') THEN 'IMAGE_ERROR/NOT_FOUND'
      WHEN REGEXP_CONTAINS(answered.status, r'(?i)too large|exceeds the (limit|maximum)') THEN 'IMAGE_ERROR/TOO_LARGE'
      WHEN REGEXP_CONTAINS(answered.status, r'(?i)unsupported|mime type') THEN 'IMAGE_ERROR/UNSUPPORTED'
      WHEN REGEXP_CONTAINS(answered.status, r'(?i)unable to process|cannot be processed|not valid|decod|corrupt') THEN 'IMAGE_ERROR/UNREADABLE'
      WHEN REGEXP_CONTAINS(answered.status, r'(?i)safety|blocked|prohibited') THEN 'BLOCKED/SAFETY'
      ELSE 'BAD_REQUEST/REFUSED'
    END AS status_reason
  FROM (
    SELECT pending.unit_id, pending.input_digest, answers.embedding,
      IF(answers.unit_id IS NULL, 'NOT_FOUND: no answer', IFNULL(answers.status, '')) AS status
    FROM `my-project.answers._embed_b7c5efba_0123456789ab_p1` AS pending
    LEFT JOIN AI.GENERATE_EMBEDDING(
      MODEL `my-project.answers.multimodalembedding_001_ce6de3b8`,
      (
        SELECT pending.unit_id, OBJ.MAKE_REF(pending.uri) AS content
        FROM `my-project.answers._embed_b7c5efba_0123456789ab_p1` AS pending
        WHERE pending.chunk = 1
      ),
      STRUCT(512 AS output_dimensionality)
    ) AS answers
      ON answers.unit_id = pending.unit_id
    WHERE pending.chunk = 1
  ) AS answered
) AS classified;

-- embed from the object table
CREATE TABLE `my-project.answers._embed_b7c5efba_0123456789ab_p1_c1`
OPTIONS (
  description = 'imagebeam: chunk 1',
  expiration_timestamp = TIMESTAMP_ADD(CURRENT_TIMESTAMP(), INTERVAL 30 DAY)
)
AS
SELECT classified.* EXCEPT (status_reason),
  SPLIT(classified.status_reason, '/')[OFFSET(0)] AS outcome,
  SPLIT(classified.status_reason, '/')[SAFE_OFFSET(1)] AS reason
FROM (
  SELECT answered.*,
    CASE
      WHEN answered.status = '' AND ARRAY_LENGTH(answered.embedding) = 512 AND NOT EXISTS (
        SELECT 1 FROM UNNEST(answered.embedding) AS number
        WHERE number IS NULL OR IS_NAN(number) OR IS_INF(number))
        AND EXISTS (SELECT 1 FROM UNNEST(answered.embedding) AS number WHERE number != 0) THEN 'OK'
      WHEN answered.status = '' THEN 'INVALID_ANSWER/WRONG_VECTOR'
      WHEN STARTS_WITH(answered.status, 'A retryable error occurred:') THEN 'UNAVAILABLE/RETRYABLE'
      WHEN REGEXP_CONTAINS(answered.status, r'(?i)permission|forbidden|access denied|unauthori[sz]ed') THEN 'IMAGE_ERROR/FORBIDDEN'
      WHEN REGEXP_CONTAINS(answered.status, r'(?i)not.?found|does not exist|no such object') THEN 'IMAGE_ERROR/NOT_FOUND'
      WHEN REGEXP_CONTAINS(answered.status, r'(?i)too large|exceeds the (limit|maximum)') THEN 'IMAGE_ERROR/TOO_LARGE'
      WHEN REGEXP_CONTAINS(answered.status, r'(?i)unsupported|mime type') THEN 'IMAGE_ERROR/UNSUPPORTED'
      WHEN REGEXP_CONTAINS(answered.status, r'(?i)unable to process|cannot be processed|not valid|decod|corrupt') THEN 'IMAGE_ERROR/UNREADABLE'
      WHEN REGEXP_CONTAINS(answered.status, r'(?i)safety|blocked|prohibited') THEN 'BLOCKED/SAFETY'
      ELSE 'BAD_REQUEST/REFUSED'
    END AS status_reason
  FROM (
    SELECT pending.unit_id, pending.input_digest, answers.embedding,
      IF(answers.unit_id IS NULL, 'NOT_FOUND: the image is not in the object table', IFNULL(answers.status, '')) AS status
    FROM `my-project.answers._embed_b7c5efba_0123456789ab_p1` AS pending
    LEFT JOIN AI.GENERATE_EMBEDDING(
      MODEL `my-project.answers.multimodalembedding_001_ce6de3b8`,
      (
        SELECT pending.unit_id, images.ref AS content
        FROM `my-project.answers._embed_b7c5efba_0123456789ab_p1` AS pending
        JOIN `my-project.answers._images_ab3e84d4` AS images ON images.uri = pending.uri
        WHERE pending.chunk = 1
      ),
      STRUCT(512 AS output_dimensionality)
    ) AS answers
      ON answers.unit_id = pending.unit_id
    WHERE pending.chunk = 1
  ) AS answered
) AS classified;

-- no URI
CREATE TABLE `my-project.answers._embed_b7c5efba_0123456789ab_p1_cnone`
OPTIONS (
  description = 'imagebeam: chunk -1',
  expiration_timestamp = TIMESTAMP_ADD(CURRENT_TIMESTAMP(), INTERVAL 30 DAY)
)
AS
SELECT pending.unit_id, pending.input_digest, CAST([] AS ARRAY<FLOAT64>) AS embedding,
  'the row has no gs:// URI' AS status, 'IMAGE_ERROR' AS outcome, 'NO_URI' AS reason
FROM `my-project.answers._embed_b7c5efba_0123456789ab_p1` AS pending
WHERE pending.unit_id IS NOT NULL AND pending.chunk = -1;

-- counts of a chunk
SELECT outcome, reason, COUNT(*) AS units, MIN(status) AS status
FROM `my-project.answers._embed_b7c5efba_0123456789ab_p1_c1`
GROUP BY outcome, reason
ORDER BY outcome, reason;

-- vectors
INSERT INTO `my-project.answers.embeddings_multimodalembedding_001_512` (unit_id, unit_type, input_digest, observation_id, asset_id, asset_type, uri, latitude, longitude, position, capture_time, map_url, snapshot_id, model, dimension, vector, version, run_id, embedded_at)
SELECT pending.unit_id, pending.unit_type, pending.input_digest, pending.observation_id, pending.asset_id,
  pending.asset_type, pending.uri, pending.latitude, pending.longitude,
  IF(pending.latitude BETWEEN -90 AND 90 AND pending.longitude BETWEEN -180 AND 180, ST_GEOGPOINT(pending.longitude, pending.latitude), NULL),
  pending.capture_time, pending.map_url, pending.snapshot_id, @model, @dimension, staged.embedding,
  @version, @run_id, CURRENT_TIMESTAMP()
FROM `my-project.answers._embed_b7c5efba_0123456789ab_p1_c1` AS staged
JOIN `my-project.answers._embed_b7c5efba_0123456789ab_p1` AS pending
  ON pending.unit_id = staged.unit_id AND pending.input_digest = staged.input_digest
WHERE staged.outcome = 'OK' AND NOT EXISTS (
  SELECT 1 FROM `my-project.answers.embeddings_multimodalembedding_001_512` AS existing
  WHERE existing.unit_id = staged.unit_id AND existing.input_digest = staged.input_digest
    AND existing.version = @version
);

-- outcomes
INSERT INTO `my-project.answers.outcomes` (task, version, unit_id, unit_type, input_digest, status, reason, message, asset_id, asset_type, observation_ids, image_uris, snapshot_id, capture_time, latitude, longitude, map_url, extra, model, lane, attempts, cost_usd, run_id, answered_at)
SELECT @task, @version, pending.unit_id, pending.unit_type, pending.input_digest, staged.outcome,
  staged.reason, NULLIF(SUBSTR(staged.status, 1, 1000), ''), pending.asset_id, pending.asset_type,
  [pending.observation_id], IF(pending.uri IS NULL, CAST([] AS ARRAY<STRING>), [pending.uri]),
  pending.snapshot_id, pending.capture_time, pending.latitude, pending.longitude, pending.map_url,
  PARSE_JSON(pending.extra), @model, @lane, 1, IF(staged.outcome = 'OK', @price, 0), @run_id,
  CURRENT_TIMESTAMP()
FROM `my-project.answers._embed_b7c5efba_0123456789ab_p1_c1` AS staged
JOIN `my-project.answers._embed_b7c5efba_0123456789ab_p1` AS pending
  ON pending.unit_id = staged.unit_id AND pending.input_digest = staged.input_digest
WHERE staged.outcome != 'UNAVAILABLE' AND NOT EXISTS (
  SELECT 1 FROM `my-project.answers.outcomes` AS known
  WHERE known.task = @task AND known.version = @version AND known.run_id = @run_id
    AND known.unit_id = staged.unit_id AND known.input_digest = staged.input_digest
);

-- outcomes of the last pass
INSERT INTO `my-project.answers.outcomes` (task, version, unit_id, unit_type, input_digest, status, reason, message, asset_id, asset_type, observation_ids, image_uris, snapshot_id, capture_time, latitude, longitude, map_url, extra, model, lane, attempts, cost_usd, run_id, answered_at)
SELECT @task, @version, pending.unit_id, pending.unit_type, pending.input_digest, staged.outcome,
  staged.reason, NULLIF(SUBSTR(staged.status, 1, 1000), ''), pending.asset_id, pending.asset_type,
  [pending.observation_id], IF(pending.uri IS NULL, CAST([] AS ARRAY<STRING>), [pending.uri]),
  pending.snapshot_id, pending.capture_time, pending.latitude, pending.longitude, pending.map_url,
  PARSE_JSON(pending.extra), @model, @lane, 1, IF(staged.outcome = 'OK', @price, 0), @run_id,
  CURRENT_TIMESTAMP()
FROM `my-project.answers._embed_b7c5efba_0123456789ab_p1_c1` AS staged
JOIN `my-project.answers._embed_b7c5efba_0123456789ab_p1` AS pending
  ON pending.unit_id = staged.unit_id AND pending.input_digest = staged.input_digest
WHERE TRUE AND NOT EXISTS (
  SELECT 1 FROM `my-project.answers.outcomes` AS known
  WHERE known.task = @task AND known.version = @version AND known.run_id = @run_id
    AND known.unit_id = staged.unit_id AND known.input_digest = staged.input_digest
);

-- remainder
CREATE TABLE `my-project.answers._embed_b7c5efba_0123456789ab_p2`
OPTIONS (
  description = '{"task":"embed/multimodalembedding@001/512","version":"f2010f1c1782","model":"multimodalembedding@001","dimension":512,"run_id":"20261121-063000-abcdef"}',
  expiration_timestamp = TIMESTAMP_ADD(CURRENT_TIMESTAMP(), INTERVAL 30 DAY)
)
AS
SELECT remainder.* EXCEPT (position),
  DIV(position, 200000) AS chunk
FROM (
  SELECT pending.* EXCEPT (chunk), ROW_NUMBER() OVER (ORDER BY pending.unit_id) - 1 AS position
  FROM `my-project.answers._embed_b7c5efba_0123456789ab_p1` AS pending
  WHERE pending.unit_id IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM `my-project.answers.outcomes` AS known
    WHERE known.task = @task AND known.version = @version AND known.run_id = @run_id
      AND known.unit_id = pending.unit_id AND known.input_digest = pending.input_digest
  )
) AS remainder;

-- drop
DROP TABLE IF EXISTS `my-project.answers._embed_b7c5efba_0123456789ab_p1_c1`;

-- search
SELECT ranked.*
FROM (
  SELECT nearer.*, ROW_NUMBER() OVER (ORDER BY distance, unit_id) AS `rank`
  FROM (
    SELECT found.*
    FROM (
      SELECT near.base.unit_id AS unit_id, near.base.observation_id AS observation_id, near.base.uri AS uri, near.base.asset_id AS asset_id, near.base.asset_type AS asset_type, near.base.capture_time AS capture_time, near.base.latitude AS latitude, near.base.longitude AS longitude, near.base.map_url AS map_url, near.base.snapshot_id AS snapshot_id, near.distance AS distance
      FROM VECTOR_SEARCH(
    TABLE `my-project.answers.embeddings_multimodalembedding_001_512`,
    'vector',
    (SELECT @vector AS vector),
    top_k => 11,
    distance_type => 'COSINE'
  ) AS near
    ) AS found
    WHERE TRUE AND found.distance IS NOT NULL
    QUALIFY ROW_NUMBER() OVER (PARTITION BY found.unit_id ORDER BY found.distance) = 1
  ) AS nearer
) AS ranked
WHERE ranked.`rank` <= 5;

-- search by a unit
SELECT ranked.*
FROM (
  SELECT nearer.*, ROW_NUMBER() OVER (ORDER BY distance, unit_id) AS `rank`
  FROM (
    SELECT found.*
    FROM (
      SELECT near.base.unit_id AS unit_id, near.base.observation_id AS observation_id, near.base.uri AS uri, near.base.asset_id AS asset_id, near.base.asset_type AS asset_type, near.base.capture_time AS capture_time, near.base.latitude AS latitude, near.base.longitude AS longitude, near.base.map_url AS map_url, near.base.snapshot_id AS snapshot_id, near.distance AS distance
      FROM VECTOR_SEARCH(
    (
      SELECT * FROM `my-project.answers.embeddings_multimodalembedding_001_512`
      WHERE (
asset_type = 'POLE'
      )
    ),
    'vector',
    (SELECT @vector AS vector),
    top_k => 11,
    distance_type => 'COSINE'
  ) AS near
    ) AS found
    WHERE found.unit_id != @without AND found.distance IS NOT NULL
    QUALIFY ROW_NUMBER() OVER (PARTITION BY found.unit_id ORDER BY found.distance) = 1
  ) AS nearer
) AS ranked
WHERE ranked.`rank` <= 5;

-- search, saved
CREATE TABLE `my-project.answers.outcomes`
AS
SELECT ranked.*
FROM (
  SELECT nearer.*, ROW_NUMBER() OVER (ORDER BY distance, unit_id) AS `rank`
  FROM (
    SELECT found.*
    FROM (
      SELECT near.base.unit_id AS unit_id, near.base.observation_id AS observation_id, near.base.uri AS uri, near.base.asset_id AS asset_id, near.base.asset_type AS asset_type, near.base.capture_time AS capture_time, near.base.latitude AS latitude, near.base.longitude AS longitude, near.base.map_url AS map_url, near.base.snapshot_id AS snapshot_id, near.distance AS distance
      FROM VECTOR_SEARCH(
    TABLE `my-project.answers.embeddings_multimodalembedding_001_512`,
    'vector',
    (SELECT @vector AS vector),
    top_k => 11,
    distance_type => 'COSINE'
  ) AS near
    ) AS found
    WHERE TRUE AND found.distance IS NOT NULL
    QUALIFY ROW_NUMBER() OVER (PARTITION BY found.unit_id ORDER BY found.distance) = 1
  ) AS nearer
) AS ranked
WHERE ranked.`rank` <= 5;

-- vector of a unit
SELECT vector FROM `my-project.answers.embeddings_multimodalembedding_001_512`
WHERE unit_id = @unit_id
ORDER BY embedded_at DESC, version, run_id
LIMIT 1;

-- model of a table
SELECT model, dimension FROM `my-project.answers.embeddings_multimodalembedding_001_512` LIMIT 1;
