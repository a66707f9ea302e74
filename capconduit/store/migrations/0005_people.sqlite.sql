ALTER TABLE users ADD COLUMN email TEXT DEFAULT '' NOT NULL;

ALTER TABLE users ADD COLUMN seller_id TEXT REFERENCES seller (id);

CREATE TABLE token (
  id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  created_ms BIGINT NOT NULL,
  updated_ms BIGINT NOT NULL,
  name TEXT NOT NULL,
  user_id TEXT NOT NULL,
  hash TEXT NOT NULL,
  scopes TEXT NOT NULL,
  expires_ms BIGINT,
  revoked_ms BIGINT,
  used_ms BIGINT,
  PRIMARY KEY (id),
  CONSTRAINT token_hash UNIQUE (hash),
  CONSTRAINT token_name UNIQUE (tenant_id, name),
  FOREIGN KEY(tenant_id) REFERENCES tenant (id),
  FOREIGN KEY(user_id) REFERENCES users (id)
);

CREATE TABLE did_request (
  id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  created_ms BIGINT NOT NULL,
  updated_ms BIGINT NOT NULL,
  seller_id TEXT NOT NULL,
  area TEXT NOT NULL,
  quantity BIGINT NOT NULL,
  note TEXT NOT NULL,
  status TEXT NOT NULL,
  numbers TEXT NOT NULL,
  filed_by TEXT NOT NULL,
  decided_ms BIGINT,
  decided_by TEXT NOT NULL,
  reason TEXT NOT NULL,
  PRIMARY KEY (id),
  FOREIGN KEY(tenant_id) REFERENCES tenant (id),
  FOREIGN KEY(seller_id) REFERENCES seller (id)
);

CREATE INDEX did_request_status ON did_request (tenant_id, status);
