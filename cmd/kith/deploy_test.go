package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
)

const deployDir = "../../deploy"

func deployed(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(deployDir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// alarm is a rule of Prometheus.
type alarm struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

func alarms(t *testing.T) (list []alarm) {
	t.Helper()
	var f struct {
		Groups []struct {
			Name  string  `yaml:"name"`
			Rules []alarm `yaml:"rules"`
		} `yaml:"groups"`
	}
	if err := yaml.UnmarshalWithOptions([]byte(deployed(t, "prometheus/kith.rules.yml")), &f, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	for _, g := range f.Groups {
		list = append(list, g.Rules...)
	}
	return list
}

// panels are the queries of the dashboard, by title.
func panels(t *testing.T) map[string][]string {
	t.Helper()
	var d struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(deployed(t, "grafana/kith.json")), &d); err != nil {
		t.Fatal(err)
	}
	list := map[string][]string{}
	for _, p := range d.Panels {
		for _, x := range p.Targets {
			list[p.Title] = append(list[p.Title], x.Expr)
		}
	}
	return list
}

// What alarms and the dashboard ask for is what a node tells: names and labels.
func TestAlarmsAskForWhatThereIs(t *testing.T) {
	n := startNode(t, t.TempDir())
	for i := range 40 { // the last of which are refused for the cap, and counted
		n.kith(t, "link", "account:hub", fmt.Sprint("browser:b", i), "--json")
	}
	told := metricLabels(t, n.service)
	for name, labels := range metricLabels(t, startTrio(t, 1).nodes[0].service) { // what only clusters tell
		if _, ok := told[name]; !ok {
			told[name] = labels
		}
	}
	asked := 0
	check := func(what, expr string) {
		for _, m := range seriesOf(expr) {
			asked++
			labels, ok := told[m.name]
			if !ok {
				t.Errorf("%s asks for %s, which no node tells", what, m.name)
			}
			for _, l := range m.labels {
				if !slices.Contains(labels, l) && l != "job" && l != "instance" { // Prometheus adds these
					t.Errorf("%s asks for the label %s of %s, which has %v", what, l, m.name, labels)
				}
			}
		}
		if strings.Count(expr, "(") != strings.Count(expr, ")") {
			t.Errorf("%s: the parentheses of %s do not match", what, expr)
		}
	}
	for _, a := range alarms(t) {
		check("alarm "+a.Alert, a.Expr)
	}
	for title, exprs := range panels(t) {
		for _, e := range exprs {
			check("panel "+title, e)
		}
	}
	if asked < 30 {
		t.Errorf("only %d series were looked at", asked)
	}
}

type series struct {
	name   string
	labels []string
}

var (
	seriesRE = regexp.MustCompile(`\b((?:kith|process|go)_[a-z0-9_]+)(\{[^}]*(?:\{identity\}[^}]*)*\})?`)
	labelRE  = regexp.MustCompile(`([a-z_]+)\s*(?:=~|!=|=)`)
	byRE     = regexp.MustCompile(`\bby \(([^)]*)\)`)
)

// seriesOf are the metrics of an expression with the labels that it names; those
// that it groups by count for the metric that follows.
func seriesOf(expr string) (list []series) {
	for _, at := range seriesRE.FindAllStringSubmatchIndex(expr, -1) {
		s := series{name: expr[at[2]:at[3]]}
		if at[4] >= 0 {
			for _, l := range labelRE.FindAllStringSubmatch(expr[at[4]:at[5]], -1) {
				s.labels = append(s.labels, l[1])
			}
		}
		if all := byRE.FindAllStringSubmatch(expr[:at[2]], -1); len(all) > 0 {
			for _, l := range strings.Split(all[len(all)-1][1], ",") {
				s.labels = append(s.labels, strings.TrimSpace(l))
			}
		}
		list = append(list, s)
	}
	return list
}

// metricLabels are the label names of each metric that a node tells.
func metricLabels(t *testing.T, service string) map[string][]string {
	t.Helper()
	labels := map[string][]string{}
	sample := regexp.MustCompile(`^([a-z0-9_]+)(?:\{(.*)\})? `)
	for _, line := range metricLines(t, service) {
		m := sample.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		list := labels[m[1]]
		for _, l := range labelRE.FindAllStringSubmatch(m[2], -1) {
			if !slices.Contains(list, l[1]) {
				list = append(list, l[1])
			}
		}
		labels[m[1]] = list
	}
	return labels
}

// Whoever is woken finds what to do.
func TestEachAlarmIsInTheRunbook(t *testing.T) {
	b, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range alarms(t) {
		if !bytes.Contains(b, []byte("\n### "+a.Alert+"\n")) {
			t.Errorf("docs/operations.md has no section %s", a.Alert)
		}
		if a.Annotations["summary"] == "" || a.Labels["severity"] != "page" && a.Labels["severity"] != "warn" {
			t.Errorf("alarm %s has no summary, or neither severity", a.Alert)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^### (Kith\w+)$`).FindAllSubmatch(b, -1) {
		if !slices.ContainsFunc(alarms(t), func(a alarm) bool { return a.Alert == string(m[1]) }) {
			t.Errorf("docs/operations.md has a section %s, and there is no such alarm", m[1])
		}
	}
}

// Alarms fire for every cluster, and not for what is meant to be.
func TestAlarmsFireWhenTheyShould(t *testing.T) {
	exprs := map[string]string{}
	shortest := time.Hour
	for _, a := range alarms(t) {
		exprs[a.Alert] = a.Expr
		if d, err := time.ParseDuration(a.For); err == nil {
			shortest = min(shortest, d)
		}
	}
	if strings.Contains(deployed(t, "prometheus/kith.rules.yml")+deployed(t, "grafana/kith.json"), `job="kith"`) || strings.Contains(deployed(t, "grafana/kith.json"), `job=\"kith\"`) {
		t.Error("an alarm or a panel asks for the first cluster's job alone")
	}
	if n := strings.Count(exprs["KithErrors"], `route!="/readyz"`); n != 2 {
		t.Errorf("KithErrors leaves /readyz, which fails while a node is drained, out of %d of its 2 sums", n)
	}
	if !strings.Contains(exprs["KithLedgerWaits"], "kith_ledger_written_total") {
		t.Error("KithLedgerWaits fires while opt-outs are written")
	}
	files, err := filepath.Glob(filepath.Join(deployDir, "prometheus/prometheus*.yml"))
	if err != nil || len(files) != 2 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		var c struct {
			Global struct {
				Every string `yaml:"evaluation_interval"`
			} `yaml:"global"`
		}
		if err := yaml.Unmarshal([]byte(deployed(t, "prometheus/"+filepath.Base(f))), &c); err != nil {
			t.Fatal(err)
		}
		if d, err := time.ParseDuration(c.Global.Every); err != nil || d > shortest {
			t.Errorf("%s evaluates alarms every %q, and one waits only %s", f, c.Global.Every, shortest)
		}
	}
}

// serves fails unless args are a command line of kith serve.
func serves(t *testing.T, what string, args []string) {
	t.Helper()
	if len(args) == 0 || args[0] != "serve" {
		t.Errorf("%s runs kith %v, not kith serve", what, args)
		return
	}
	cmd := newServeCommand()
	if err := cmd.ParseFlags(args[1:]); err != nil {
		t.Errorf("%s: kith %v: %v", what, args, err)
	}
}

// Nobody's secrets and data go into the build of an image: of what an operator puts
// beside the sources all is left out that the repository's own list leaves out.
func TestImageIsBuiltWithoutSecrets(t *testing.T) {
	lines := func(name string) []string { return strings.Split(deployed(t, filepath.Join("..", name)), "\n") }
	left := lines(".dockerignore")
	for _, name := range []string{"/deploy/secrets", "/deploy/kith.yaml", "/kith.yaml", "/kith-data*", "**/*.kithbackup", "/bin"} {
		if !slices.Contains(left, name) {
			t.Errorf(".dockerignore does not name %s", name)
		}
	}
	for _, name := range lines(".gitignore") {
		if strings.HasPrefix(name, "/deploy/") && !slices.Contains(left, strings.TrimSuffix(name, "/")) {
			t.Errorf(".gitignore names %s, .dockerignore does not", name)
		}
	}
	if slices.ContainsFunc(left, func(line string) bool { return strings.HasPrefix(line, "!") }) {
		t.Error(".dockerignore takes something back")
	}
}

// The unit, the image and the compose file run the program as it is.
func TestDeployedCommandLines(t *testing.T) {
	unit := deployed(t, "kith.service")
	m := regexp.MustCompile(`(?m)^ExecStart=/usr/local/bin/kith (.*)$`).FindStringSubmatch(unit)
	if m == nil {
		t.Fatal("kith.service starts nothing")
	}
	serves(t, "kith.service", strings.Fields(m[1]))
	m = regexp.MustCompile(`(?m)^ExecStartPre=/usr/local/bin/kith config check (\S+)$`).FindStringSubmatch(unit)
	if m == nil || !strings.Contains(unit, "--config "+m[1]+" ") {
		t.Error("kith.service does not check the configuration that it starts with")
	}

	docker := deployed(t, "Dockerfile")
	var args []string
	m = regexp.MustCompile(`(?m)^CMD (\[.*\])$`).FindStringSubmatch(docker)
	if m == nil || json.Unmarshal([]byte(m[1]), &args) != nil {
		t.Fatal("the Dockerfile has no CMD in its JSON form")
	}
	serves(t, "Dockerfile", args)
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	m = regexp.MustCompile(`(?m)^FROM golang:(\S+) AS build$`).FindStringSubmatch(docker)
	if m == nil || !bytes.Contains(mod, []byte("\ngo "+m[1])) {
		t.Errorf("the Dockerfile builds with %v, go.mod wants another", m)
	}

	var compose struct {
		Services map[string]struct {
			Build   struct{ Context, Dockerfile string }
			Volumes []string
		}
	}
	if err := yaml.Unmarshal([]byte(deployed(t, "compose.yaml")), &compose); err != nil {
		t.Fatal(err)
	}
	k := compose.Services["kith"]
	if _, err := os.Stat(filepath.Join(deployDir, k.Build.Context, k.Build.Dockerfile)); err != nil {
		t.Error(err)
	}
	for name, s := range compose.Services {
		for _, v := range s.Volumes {
			if from, _, _ := strings.Cut(v, ":"); strings.HasPrefix(from, "./") && from != "./kith.yaml" { // that one is the operator's
				if _, err := os.Stat(filepath.Join(deployDir, from)); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
	}
	if !slices.ContainsFunc(k.Volumes, func(v string) bool { return strings.HasSuffix(v, ":"+args[slices.Index(args, "--config")+1]+":ro") }) {
		t.Error("compose.yaml does not put the configuration where the image looks for it")
	}
}

// systemd finds nothing to say about the unit.
func TestUnitIsValid(t *testing.T) {
	tool, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed: the unit's syntax is not checked")
	}
	dir := t.TempDir()
	unit := strings.ReplaceAll(deployed(t, "kith.service"), "/usr/local/bin/kith", "/bin/true")
	path := filepath.Join(dir, "kith.service")
	if err := os.WriteFile(path, []byte(unit), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(tool, "verify", "--man=no", "--recursive-errors=no", path)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.Discard, &out
	err = cmd.Run()
	for line := range strings.Lines(out.String()) {
		if strings.Contains(line, "kith.service") {
			t.Errorf("%s", line)
		}
	}
	if err != nil && !t.Failed() {
		t.Skipf("systemd-analyze does not run here: %v: %s", err, out.String())
	}
}
