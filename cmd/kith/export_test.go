package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"kith/internal/config"
	"kith/proto"
)

// try runs a command against n and gives its exit code and what it said.
func (n *liveNode) try(t *testing.T, args ...string) (int, string) {
	t.Helper()
	var out bytes.Buffer
	env := map[string]string{"KITH_SERVICE": strings.TrimPrefix(n.service, "http://"), "KITH_KEY": config.DevAdminKey, "KITH_CLIENT": config.DevClient}
	code := run(t.Context(), args, strings.NewReader(""), &out, &out, func(k string) string { return env[k] })
	return code, out.String()
}

// A delta goes on over a restart; after a restore, where numbers may be given
// to others, it is refused.
func TestExportsOverRestartAndRestore(t *testing.T) {
	data, dir := t.TempDir()+"/data", t.TempDir()
	n := startNode(t, data)
	writeFile(t, dir+"/segments.yaml", "segments:\n  - {id: auto, scope: identity, when: 'count(event.section == \"auto\", \"30d\") >= 1'}\n")
	writeFile(t, dir+"/events.ndjson", `{"event":"page","identities":["browser:one"],"props":{"section":"auto"}}`+"\n")
	writeFile(t, dir+"/more.ndjson", `{"event":"page","identities":["browser:two"],"props":{"section":"auto"}}`+"\n")
	n.kith(t, "segments", "apply", "-f", dir+"/segments.yaml")
	position := n.ingest(t, "-f", dir+"/events.ndjson").Position
	n.kith(t, "audience", "export", "auto", "-o", dir+"/first", "--after", position)
	n.kith(t, "backup", dir+"/backups")
	n.stop()

	n = startNode(t, data)
	position = n.ingest(t, "-f", dir+"/more.ndjson").Position
	var m proto.ExportManifest
	out := n.kith(t, "audience", "export", "auto", "-o", dir+"/second", "--since", dir+"/first", "--after", position, "--json")
	if err := json.Unmarshal([]byte(out), &m); err != nil || m.Since == nil || m.Since.Entered != 1 || m.Since.Left != 0 || m.Count != 2 {
		t.Errorf("after a restart: %v, %s", err, out)
	}
	n.stop()

	restored := t.TempDir() + "/restored"
	n.kith(t, "restore", dir+"/backups", "--data", restored, "--ledger", data)
	n = startNode(t, restored)
	for _, since := range []string{"/first", "/second"} {
		if code, said := n.try(t, "audience", "export", "auto", "-o", dir+"/third", "--since", dir+since); code != exitFailed || !strings.Contains(said, "before a restore") {
			t.Errorf("since %s after a restore: exit code %d, %s", since, code, said)
		}
	}
	n.kith(t, "audience", "export", "auto", "-o", dir+"/third")
}
