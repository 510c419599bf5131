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
OPTIONS (description = '{"task":"embed/multimodalembedding@001/512","version":"f2010f1c1782","model":"multimodalembedding@001","dimension":512,"run_id":"20261121-063000-abcdef"}')
AS
SELECT addressed.* EXCEPT (place),
  IF(addressed.has_uri, IF(place < 10, 0, 1 + DIV(place - 10, 200000)), -1) AS chunk
FROM (
  SELECT found.*,
    ROW_NUMBER() OVER (PARTITION BY found.has_uri ORDER BY found.unit_id) - 1 AS place
  FROM (
    SELECT due.counts, due.unit_id, due.unit_type, due.input_digest, due.asset_id, due.asset_type, due.snapshot_id, due.capture_time, due.latitude, due.longitude, due.map_url, due.extra,
      due.images[SAFE_OFFSET(0)].observation_id AS observation_id, due.images[SAFE_OFFSET(0)].uri AS uri,
      STARTS_WITH(IFNULL(due.images[SAFE_OFFSET(0)].uri, ''), 'gs://') AS has_uri
    FROM (
SELECT * FROM `my-project.somewhere.due_units`
    ) AS due
  ) AS found
) AS addressed;

-- chunks
SELECT chunk, COUNT(*) AS units
FROM `my-project.answers._embed_b7c5efba_0123456789ab_p1`
WHERE unit_id IS NOT NULL
GROUP BY chunk
ORDER BY chunk;

-- counts
SELECT counts FROM `my-project.answers._embed_b7c5efba_0123456789ab_p1` LIMIT 1;

-- embed from URIs
CREATE TABLE `my-project.answers._embed_b7c5efba_0123456789ab_p1_c1`
OPTIONS (description = 'imagebeam: chunk 1')
AS
SELECT judged.* EXCEPT (verdict),
  SPLIT(judged.verdict, '/')[OFFSET(0)] AS outcome, SPLIT(judged.verdict, '/')[SAFE_OFFSET(1)] AS reason
FROM (
  SELECT said.*,
    CASE
      WHEN said.status = '' AND ARRAY_LENGTH(said.embedding) = 512 AND NOT EXISTS (
        SELECT 1 FROM UNNEST(said.embedding) AS number
        WHERE number IS NULL OR IS_NAN(number) OR IS_INF(number))
        AND EXISTS (SELECT 1 FROM UNNEST(said.embedding) AS number WHERE number != 0) THEN 'OK'
      WHEN said.status = '' THEN 'INVALID_ANSWER/WRONG_VECTOR'
      WHEN STARTS_WITH(said.status, 'A retryable error occurred:') THEN 'UNAVAILABLE/RETRYABLE'
      WHEN REGEXP_CONTAINS(said.status, r'(?i)permission|forbidden|access denied|unauthori[sz]ed') THEN 'IMAGE_ERROR/FORBIDDEN'
      WHEN REGEXP_CONTAINS(said.status, r'(?i)not.?found|does not exist|no such object') THEN 'IMAGE_ERROR/NOT_FOUND'
      WHEN REGEXP_CONTAINS(said.status, r'(?i)too large|exceeds the (limit|maximum)') THEN 'IMAGE_ERROR/TOO_LARGE'
      WHEN REGEXP_CONTAINS(said.status, r'(?i)unsupported|mime type') THEN 'IMAGE_ERROR/UNSUPPORTED'
      WHEN REGEXP_CONTAINS(said.status, r'(?i)unable to process|cannot be processed|not valid|decod|corrupt') THEN 'IMAGE_ERROR/UNREADABLE'
      WHEN REGEXP_CONTAINS(said.status, r'(?i)safety|blocked|prohibited') THEN 'BLOCKED/SAFETY'
      ELSE 'BAD_REQUEST/REFUSED'
    END AS verdict
  FROM (
    SELECT pending.unit_id, pending.input_digest, made.embedding,
      IF(made.unit_id IS NULL, 'NOT_FOUND: no answer', IFNULL(made.status, '')) AS status
    FROM `my-project.answers._embed_b7c5efba_0123456789ab_p1` AS pending
    LEFT JOIN AI.GENERATE_EMBEDDING(
      MODEL `my-project.answers.multimodalembedding_001_ce6de3b8`,
      (
        SELECT pending.unit_id, OBJ.MAKE_REF(pending.uri, 'my-project.us.imagery') AS content
        FROM `my-project.answers._embed_b7c5efba_0123456789ab_p1` AS pending
        WHERE pending.chunk = 1
      ),
      STRUCT(512 AS output_dimensionality)
    ) AS made
      ON made.unit_id = pending.unit_id
    WHERE pending.chunk = 1
  ) AS said
) AS judged;

-- embed from URIs, default connection
CREATE TABLE `my-project.answers._embed_b7c5efba_0123456789ab_p1_c1`
OPTIONS (description = 'imagebeam: chunk 1')
AS
SELECT judged.* EXCEPT (verdict),
  SPLIT(judged.verdict, '/')[OFFSET(0)] AS outcome, SPLIT(judged.verdict, '/')[SAFE_OFFSET(1)] AS reason
FROM (
  SELECT said.*,
    CASE
      WHEN said.status = '' AND ARRAY_LENGTH(said.embedding) = 512 AND NOT EXISTS (
        SELECT 1 FROM UNNEST(said.embedding) AS number
        WHERE number IS NULL OR IS_NAN(number) OR IS_INF(number))
        AND EXISTS (SELECT 1 FROM UNNEST(said.embedding) AS number WHERE number != 0) THEN 'OK'
      WHEN said.status = '' THEN 'INVALID_ANSWER/WRONG_VECTOR'
      WHEN STARTS_WITH(said.status, 'A retryable error occurred:') THEN 'UNAVAILABLE/RETRYABLE'
      WHEN REGEXP_CONTAINS(said.status, r'(?i)permission|forbidden|access denied|unauthori[sz]ed') THEN 'IMAGE_ERROR/FORBIDDEN'
      WHEN REGEXP_CONTAINS(said.status, r'(?i)not.?found|does not exist|no such object') THEN 'IMAGE_ERROR/NOT_FOUND'
      WHEN REGEXP_CONTAINS(said.status, r'(?i)too large|exceeds the (limit|maximum)') THEN 'IMAGE_ERROR/TOO_LARGE'
      WHEN REGEXP_CONTAINS(said.status, r'(?i)unsupported|mime type') THEN 'IMAGE_ERROR/UNSUPPORTED'
      WHEN REGEXP_CONTAINS(said.status, r'(?i)unable to process|cannot be processed|not valid|decod|corrupt') THEN 'IMAGE_ERROR/UNREADABLE'
      WHEN REGEXP_CONTAINS(said.status, r'(?i)safety|blocked|prohibited') THEN 'BLOCKED/SAFETY'
      ELSE 'BAD_REQUEST/REFUSED'
    END AS verdict
  FROM (
    SELECT pending.unit_id, pending.input_digest, made.embedding,
      IF(made.unit_id IS NULL, 'NOT_FOUND: no answer', IFNULL(made.status, '')) AS status
    FROM `my-project.answers._embed_b7c5efba_0123456789ab_p1` AS pending
    LEFT JOIN AI.GENERATE_EMBEDDING(
      MODEL `my-project.answers.multimodalembedding_001_ce6de3b8`,
      (
        SELECT pending.unit_id, OBJ.MAKE_REF(pending.uri) AS content
        FROM `my-project.answers._embed_b7c5efba_0123456789ab_p1` AS pending
        WHERE pending.chunk = 1
      ),
      STRUCT(512 AS output_dimensionality)
    ) AS made
      ON made.unit_id = pending.unit_id
    WHERE pending.chunk = 1
  ) AS said
) AS judged;

-- embed from the object table
CREATE TABLE `my-project.answers._embed_b7c5efba_0123456789ab_p1_c1`
OPTIONS (description = 'imagebeam: chunk 1')
AS
SELECT judged.* EXCEPT (verdict),
  SPLIT(judged.verdict, '/')[OFFSET(0)] AS outcome, SPLIT(judged.verdict, '/')[SAFE_OFFSET(1)] AS reason
FROM (
  SELECT said.*,
    CASE
      WHEN said.status = '' AND ARRAY_LENGTH(said.embedding) = 512 AND NOT EXISTS (
        SELECT 1 FROM UNNEST(said.embedding) AS number
        WHERE number IS NULL OR IS_NAN(number) OR IS_INF(number))
        AND EXISTS (SELECT 1 FROM UNNEST(said.embedding) AS number WHERE number != 0) THEN 'OK'
      WHEN said.status = '' THEN 'INVALID_ANSWER/WRONG_VECTOR'
      WHEN STARTS_WITH(said.status, 'A retryable error occurred:') THEN 'UNAVAILABLE/RETRYABLE'
      WHEN REGEXP_CONTAINS(said.status, r'(?i)permission|forbidden|access denied|unauthori[sz]ed') THEN 'IMAGE_ERROR/FORBIDDEN'
      WHEN REGEXP_CONTAINS(said.status, r'(?i)not.?found|does not exist|no such object') THEN 'IMAGE_ERROR/NOT_FOUND'
      WHEN REGEXP_CONTAINS(said.status, r'(?i)too large|exceeds the (limit|maximum)') THEN 'IMAGE_ERROR/TOO_LARGE'
      WHEN REGEXP_CONTAINS(said.status, r'(?i)unsupported|mime type') THEN 'IMAGE_ERROR/UNSUPPORTED'
      WHEN REGEXP_CONTAINS(said.status, r'(?i)unable to process|cannot be processed|not valid|decod|corrupt') THEN 'IMAGE_ERROR/UNREADABLE'
      WHEN REGEXP_CONTAINS(said.status, r'(?i)safety|blocked|prohibited') THEN 'BLOCKED/SAFETY'
      ELSE 'BAD_REQUEST/REFUSED'
    END AS verdict
  FROM (
    SELECT pending.unit_id, pending.input_digest, made.embedding,
      IF(made.unit_id IS NULL, 'NOT_FOUND: the image is not in the object table', IFNULL(made.status, '')) AS status
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
    ) AS made
      ON made.unit_id = pending.unit_id
    WHERE pending.chunk = 1
  ) AS said
) AS judged;

-- no address
CREATE TABLE `my-project.answers._embed_b7c5efba_0123456789ab_p1_cnone`
OPTIONS (description = 'imagebeam: chunk -1')
AS
SELECT pending.unit_id, pending.input_digest, CAST([] AS ARRAY<FLOAT64>) AS embedding,
  'the row has no gs:// address' AS status, 'IMAGE_ERROR' AS outcome, 'NO_URI' AS reason
FROM `my-project.answers._embed_b7c5efba_0123456789ab_p1` AS pending
WHERE pending.unit_id IS NOT NULL AND pending.chunk = -1;

-- tally
SELECT outcome, reason, COUNT(*) AS units, MIN(status) AS status
FROM `my-project.answers._embed_b7c5efba_0123456789ab_p1_c1`
GROUP BY outcome, reason
ORDER BY outcome, reason;

-- vectors
INSERT INTO `my-project.answers.embeddings_multimodalembedding_001_512` (unit_id, unit_type, input_digest, observation_id, asset_id, asset_type, uri, latitude, longitude, position, capture_time, map_url, snapshot_id, model, dimension, vector, version, run_id, embedded_at)
SELECT pending.unit_id, pending.unit_type, pending.input_digest, pending.observation_id, pending.asset_id,
  pending.asset_type, pending.uri, pending.latitude, pending.longitude,
  IF(pending.latitude BETWEEN -90 AND 90 AND pending.longitude BETWEEN -180 AND 180, ST_GEOGPOINT(pending.longitude, pending.latitude), NULL),
  pending.capture_time, pending.map_url, pending.snapshot_id, @model, @dimension, landed.embedding,
  @version, @run_id, CURRENT_TIMESTAMP()
FROM `my-project.answers._embed_b7c5efba_0123456789ab_p1_c1` AS landed
JOIN `my-project.answers._embed_b7c5efba_0123456789ab_p1` AS pending
  ON pending.unit_id = landed.unit_id AND pending.input_digest = landed.input_digest
WHERE landed.outcome = 'OK' AND NOT EXISTS (
  SELECT 1 FROM `my-project.answers.embeddings_multimodalembedding_001_512` AS there
  WHERE there.unit_id = landed.unit_id AND there.input_digest = landed.input_digest
    AND there.version = @version
);

-- outcomes
INSERT INTO `my-project.answers.outcomes` (task, version, unit_id, unit_type, input_digest, status, reason, message, asset_id, asset_type, observation_ids, image_uris, snapshot_id, capture_time, latitude, longitude, map_url, extra, model, lane, attempts, cost_usd, run_id, answered_at)
SELECT @task, @version, pending.unit_id, pending.unit_type, pending.input_digest, landed.outcome,
  landed.reason, NULLIF(SUBSTR(landed.status, 1, 1000), ''), pending.asset_id, pending.asset_type,
  [pending.observation_id], IF(pending.uri IS NULL, CAST([] AS ARRAY<STRING>), [pending.uri]),
  pending.snapshot_id, pending.capture_time, pending.latitude, pending.longitude, pending.map_url,
  PARSE_JSON(pending.extra), @model, @lane, 1, IF(landed.outcome = 'OK', @price, 0), @run_id,
  CURRENT_TIMESTAMP()
FROM `my-project.answers._embed_b7c5efba_0123456789ab_p1_c1` AS landed
JOIN `my-project.answers._embed_b7c5efba_0123456789ab_p1` AS pending
  ON pending.unit_id = landed.unit_id AND pending.input_digest = landed.input_digest
WHERE landed.outcome != 'UNAVAILABLE' AND NOT EXISTS (
  SELECT 1 FROM `my-project.answers.outcomes` AS known
  WHERE known.task = @task AND known.version = @version AND known.run_id = @run_id
    AND known.unit_id = landed.unit_id AND known.input_digest = landed.input_digest
);

-- outcomes of the last pass
INSERT INTO `my-project.answers.outcomes` (task, version, unit_id, unit_type, input_digest, status, reason, message, asset_id, asset_type, observation_ids, image_uris, snapshot_id, capture_time, latitude, longitude, map_url, extra, model, lane, attempts, cost_usd, run_id, answered_at)
SELECT @task, @version, pending.unit_id, pending.unit_type, pending.input_digest, landed.outcome,
  landed.reason, NULLIF(SUBSTR(landed.status, 1, 1000), ''), pending.asset_id, pending.asset_type,
  [pending.observation_id], IF(pending.uri IS NULL, CAST([] AS ARRAY<STRING>), [pending.uri]),
  pending.snapshot_id, pending.capture_time, pending.latitude, pending.longitude, pending.map_url,
  PARSE_JSON(pending.extra), @model, @lane, 1, IF(landed.outcome = 'OK', @price, 0), @run_id,
  CURRENT_TIMESTAMP()
FROM `my-project.answers._embed_b7c5efba_0123456789ab_p1_c1` AS landed
JOIN `my-project.answers._embed_b7c5efba_0123456789ab_p1` AS pending
  ON pending.unit_id = landed.unit_id AND pending.input_digest = landed.input_digest
WHERE TRUE AND NOT EXISTS (
  SELECT 1 FROM `my-project.answers.outcomes` AS known
  WHERE known.task = @task AND known.version = @version AND known.run_id = @run_id
    AND known.unit_id = landed.unit_id AND known.input_digest = landed.input_digest
);

-- rest
CREATE TABLE `my-project.answers._embed_b7c5efba_0123456789ab_p2`
OPTIONS (description = '{"task":"embed/multimodalembedding@001/512","version":"f2010f1c1782","model":"multimodalembedding@001","dimension":512,"run_id":"20261121-063000-abcdef"}')
AS
SELECT unsettled.* EXCEPT (place),
  DIV(place, 200000) AS chunk
FROM (
  SELECT pending.* EXCEPT (chunk), ROW_NUMBER() OVER (ORDER BY pending.unit_id) - 1 AS place
  FROM `my-project.answers._embed_b7c5efba_0123456789ab_p1` AS pending
  WHERE pending.unit_id IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM `my-project.answers.outcomes` AS known
    WHERE known.task = @task AND known.version = @version AND known.run_id = @run_id
      AND known.unit_id = pending.unit_id AND known.input_digest = pending.input_digest
  )
) AS unsettled;

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

-- search for the like of one
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

-- search, kept
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

-- vector of one
SELECT vector FROM `my-project.answers.embeddings_multimodalembedding_001_512`
WHERE unit_id = @unit_id
ORDER BY embedded_at DESC, version, run_id
LIMIT 1;

-- model of a table
SELECT model, dimension FROM `my-project.answers.embeddings_multimodalembedding_001_512` LIMIT 1;
