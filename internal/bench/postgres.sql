-- What the bench compares linking and opting out with: identities in clusters,
-- and the edges by which a cluster falls apart when one of it goes.
CREATE TABLE cluster (id bigserial PRIMARY KEY, size int NOT NULL) WITH (fillfactor = 70);
CREATE TABLE identity (id text PRIMARY KEY, cluster bigint NOT NULL) WITH (fillfactor = 90);
CREATE INDEX ON identity (cluster);
CREATE TABLE edge (a text NOT NULL, b text NOT NULL, PRIMARY KEY (a, b));
CREATE INDEX ON edge (b);
CREATE TABLE optout (id text PRIMARY KEY, at timestamptz NOT NULL);

-- link joins the clusters of two identities, the smaller into the larger.
CREATE FUNCTION link(x text, y text, edges boolean) RETURNS void LANGUAGE plpgsql AS $$
DECLARE cx bigint; cy bigint; nx int; ny int;
BEGIN
  SELECT cluster INTO cx FROM identity WHERE id = x FOR UPDATE;
  SELECT cluster INTO cy FROM identity WHERE id = y FOR UPDATE;
  IF cx IS NULL AND cy IS NULL THEN
    INSERT INTO cluster (size) VALUES (2) RETURNING id INTO cx;
    INSERT INTO identity VALUES (x, cx), (y, cx);
  ELSIF cx IS NULL THEN
    UPDATE cluster SET size = size + 1 WHERE id = cy;
    INSERT INTO identity VALUES (x, cy);
  ELSIF cy IS NULL THEN
    UPDATE cluster SET size = size + 1 WHERE id = cx;
    INSERT INTO identity VALUES (y, cx);
  ELSIF cx <> cy THEN
    PERFORM 1 FROM cluster WHERE id IN (cx, cy) ORDER BY id FOR UPDATE;
    SELECT size INTO nx FROM cluster WHERE id = cx;
    SELECT size INTO ny FROM cluster WHERE id = cy;
    UPDATE identity SET cluster = CASE WHEN nx < ny THEN cy ELSE cx END WHERE cluster = CASE WHEN nx < ny THEN cx ELSE cy END;
    UPDATE cluster SET size = nx + ny WHERE id = CASE WHEN nx < ny THEN cy ELSE cx END;
    DELETE FROM cluster WHERE id = CASE WHEN nx < ny THEN cx ELSE cy END;
  END IF;
  IF edges THEN
    INSERT INTO edge VALUES (x, y) ON CONFLICT DO NOTHING;
  END IF;
END $$;

-- link_all makes many links in one transaction.
CREATE FUNCTION link_all(xs text[], ys text[], edges boolean) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
  FOR i IN 1 .. cardinality(xs) LOOP
    PERFORM link(xs[i], ys[i], edges);
  END LOOP;
  RETURN cardinality(xs);
END $$;

-- opt_out removes an identity and gives each part into which its cluster falls
-- a cluster of its own; the first part keeps the old one.
CREATE FUNCTION opt_out(x text) RETURNS int LANGUAGE plpgsql AS $$
DECLARE c bigint; own bigint; rest text[]; part text[]; parts int := 0;
BEGIN
  INSERT INTO optout VALUES (x, now()) ON CONFLICT DO NOTHING;
  SELECT cluster INTO c FROM identity WHERE id = x;
  PERFORM 1 FROM cluster WHERE id = c FOR UPDATE;
  DELETE FROM edge WHERE a = x;
  DELETE FROM edge WHERE b = x;
  DELETE FROM identity WHERE id = x;
  SELECT array_agg(id) INTO rest FROM identity WHERE cluster = c;
  IF rest IS NULL THEN
    DELETE FROM cluster WHERE id = c;
  END IF;
  WHILE cardinality(rest) > 0 LOOP
    WITH RECURSIVE reach(id) AS (
      SELECT rest[1]
      UNION
      SELECT n.id FROM reach r CROSS JOIN LATERAL (SELECT b FROM edge WHERE a = r.id UNION ALL SELECT a FROM edge WHERE b = r.id) n(id)
    ) SELECT array_agg(id) INTO part FROM reach;
    IF parts = 0 THEN
      UPDATE cluster SET size = cardinality(part) WHERE id = c;
    ELSE
      INSERT INTO cluster (size) VALUES (cardinality(part)) RETURNING id INTO own;
      UPDATE identity SET cluster = own WHERE id = ANY (part);
    END IF;
    SELECT array_agg(id) INTO rest FROM unnest(rest) id WHERE id <> ALL (part);
    parts := parts + 1;
  END LOOP;
  RETURN parts;
END $$;
