package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"

	"kith/internal/config"
)

// What deploy/kubernetes/kith.yaml uses of Kubernetes' kinds, and no more: a field
// that is misspelt there is one that is not here.
type (
	kubeMeta struct {
		Name        string            `yaml:"name"`
		Labels      map[string]string `yaml:"labels"`
		Annotations map[string]string `yaml:"annotations"`
	}
	// KubeHead is exported for the YAML package, which cannot fill it otherwise.
	KubeHead struct {
		APIVersion string   `yaml:"apiVersion"`
		Kind       string   `yaml:"kind"`
		Metadata   kubeMeta `yaml:"metadata"`
	}
	kubeSelector struct {
		MatchLabels map[string]string `yaml:"matchLabels"`
	}
	kubePort struct {
		Name          string `yaml:"name"`
		Port          any    `yaml:"port"` // of a policy by name
		TargetPort    string `yaml:"targetPort"`
		ContainerPort int    `yaml:"containerPort"`
		Protocol      string `yaml:"protocol"`
	}
	kubeConfigMap struct {
		KubeHead `yaml:",inline"`
		Data     map[string]string `yaml:"data"`
	}
	kubeService struct {
		KubeHead `yaml:",inline"`
		Spec     struct {
			ClusterIP       string            `yaml:"clusterIP"`
			PublishNotReady bool              `yaml:"publishNotReadyAddresses"`
			Selector        map[string]string `yaml:"selector"`
			Ports           []kubePort        `yaml:"ports"`
		} `yaml:"spec"`
	}
	kubeBudget struct {
		KubeHead `yaml:",inline"`
		Spec     struct {
			MaxUnavailable int          `yaml:"maxUnavailable"`
			Selector       kubeSelector `yaml:"selector"`
		} `yaml:"spec"`
	}
	kubePolicy struct {
		KubeHead `yaml:",inline"`
		Spec     struct {
			PodSelector kubeSelector `yaml:"podSelector"`
			Types       []string     `yaml:"policyTypes"`
			Ingress     []struct {
				From []struct {
					Pods       *kubeSelector `yaml:"podSelector"`
					Namespaces *kubeSelector `yaml:"namespaceSelector"`
				} `yaml:"from"`
				Ports []kubePort `yaml:"ports"`
			} `yaml:"ingress"`
		} `yaml:"spec"`
	}
	kubeAffinityTerm struct {
		TopologyKey string       `yaml:"topologyKey"`
		Selector    kubeSelector `yaml:"labelSelector"`
	}
	kubeProbe struct {
		HTTPGet struct {
			Path string `yaml:"path"`
			Port string `yaml:"port"`
		} `yaml:"httpGet"`
		PeriodSeconds    int `yaml:"periodSeconds"`
		TimeoutSeconds   int `yaml:"timeoutSeconds"`
		FailureThreshold int `yaml:"failureThreshold"`
	}
	kubeContainer struct {
		Name  string   `yaml:"name"`
		Image string   `yaml:"image"`
		Args  []string `yaml:"args"`
		Env   []struct {
			Name string `yaml:"name"`
			From struct {
				Field struct {
					Path string `yaml:"fieldPath"`
				} `yaml:"fieldRef"`
			} `yaml:"valueFrom"`
		} `yaml:"env"`
		Ports     []kubePort `yaml:"ports"`
		Readiness kubeProbe  `yaml:"readinessProbe"`
		Liveness  kubeProbe  `yaml:"livenessProbe"`
		Resources struct {
			Requests map[string]string `yaml:"requests"`
			Limits   map[string]string `yaml:"limits"`
		} `yaml:"resources"`
		Security struct {
			Escalation   *bool `yaml:"allowPrivilegeEscalation"`
			ReadOnly     bool  `yaml:"readOnlyRootFilesystem"`
			Capabilities struct {
				Drop []string `yaml:"drop"`
			} `yaml:"capabilities"`
		} `yaml:"securityContext"`
		Mounts []struct {
			Name     string `yaml:"name"`
			Path     string `yaml:"mountPath"`
			SubPath  string `yaml:"subPath"`
			ReadOnly bool   `yaml:"readOnly"`
		} `yaml:"volumeMounts"`
	}
	kubePod struct {
		Grace        int   `yaml:"terminationGracePeriodSeconds"`
		Token        *bool `yaml:"automountServiceAccountToken"`
		ServiceLinks *bool `yaml:"enableServiceLinks"`
		Security     struct {
			NonRoot     bool   `yaml:"runAsNonRoot"`
			User        int    `yaml:"runAsUser"`
			Group       int    `yaml:"runAsGroup"`
			FSGroup     int    `yaml:"fsGroup"`
			GroupChange string `yaml:"fsGroupChangePolicy"`
			Seccomp     struct {
				Type string `yaml:"type"`
			} `yaml:"seccompProfile"`
		} `yaml:"securityContext"`
		Affinity struct {
			Anti struct {
				Required  []kubeAffinityTerm `yaml:"requiredDuringSchedulingIgnoredDuringExecution"`
				Preferred []struct {
					Weight int              `yaml:"weight"`
					Term   kubeAffinityTerm `yaml:"podAffinityTerm"`
				} `yaml:"preferredDuringSchedulingIgnoredDuringExecution"`
			} `yaml:"podAntiAffinity"`
		} `yaml:"affinity"`
		Containers []kubeContainer `yaml:"containers"`
		Volumes    []struct {
			Name      string `yaml:"name"`
			ConfigMap struct {
				Name string `yaml:"name"`
			} `yaml:"configMap"`
			Secret struct {
				Name string `yaml:"secretName"`
				Mode any    `yaml:"defaultMode"`
			} `yaml:"secret"`
		} `yaml:"volumes"`
	}
	kubeSet struct {
		KubeHead `yaml:",inline"`
		Spec     struct {
			Replicas    int          `yaml:"replicas"`
			ServiceName string       `yaml:"serviceName"`
			Management  string       `yaml:"podManagementPolicy"`
			Selector    kubeSelector `yaml:"selector"`
			MinReady    int          `yaml:"minReadySeconds"`
			Update      struct {
				Type string `yaml:"type"`
			} `yaml:"updateStrategy"`
			Template struct {
				Metadata kubeMeta `yaml:"metadata"`
				Spec     kubePod  `yaml:"spec"`
			} `yaml:"template"`
			Claims []struct {
				Metadata kubeMeta `yaml:"metadata"`
				Spec     struct {
					Access    []string `yaml:"accessModes"`
					Resources struct {
						Requests map[string]string `yaml:"requests"`
					} `yaml:"resources"`
				} `yaml:"spec"`
			} `yaml:"volumeClaimTemplates"`
		} `yaml:"spec"`
	}
)

// kube is the manifest.
type kube struct {
	configMap kubeConfigMap
	services  map[string]kubeService
	budget    kubeBudget
	policy    kubePolicy
	set       kubeSet
}

const (
	kubeFile      = "kubernetes/kith.yaml"
	kubeNamespace = "default" // that of the comment
)

func kubernetes(t *testing.T) *kube {
	t.Helper()
	k := &kube{services: map[string]kubeService{}}
	versions := map[string]string{
		"ConfigMap": "v1", "Service": "v1", "PodDisruptionBudget": "policy/v1", "NetworkPolicy": "networking.k8s.io/v1", "StatefulSet": "apps/v1",
	}
	for doc := range strings.SplitSeq(deployed(t, kubeFile), "\n---\n") {
		doc += "\n" // a block's last line has its end
		var head KubeHead
		if err := yaml.Unmarshal([]byte(doc), &head); err != nil {
			t.Fatal(err)
		}
		if versions[head.Kind] != head.APIVersion {
			t.Errorf("%s %s is of %q", head.Kind, head.Metadata.Name, head.APIVersion)
		}
		switch head.Kind {
		case "ConfigMap":
			strictly(t, doc, &k.configMap)
		case "Service":
			var s kubeService
			strictly(t, doc, &s)
			k.services[head.Metadata.Name] = s
		case "PodDisruptionBudget":
			strictly(t, doc, &k.budget)
		case "NetworkPolicy":
			strictly(t, doc, &k.policy)
		case "StatefulSet":
			strictly(t, doc, &k.set)
		default:
			t.Fatalf("%s is of a kind that nothing checks", head.Kind)
		}
	}
	if len(k.set.Spec.Template.Spec.Containers) != 1 {
		t.Fatal("the pod has not one container")
	}
	return k
}

func (k *kube) pod() *kubePod             { return &k.set.Spec.Template.Spec }
func (k *kube) container() *kubeContainer { return &k.pod().Containers[0] }

// nodes are the configurations of the pods, as Kubernetes writes their arguments.
func (k *kube) nodes(t *testing.T) (list []config.Config) {
	t.Helper()
	mounted := ""
	for _, m := range k.container().Mounts {
		if m.SubPath != "" {
			mounted = m.Path
			if _, ok := k.configMap.Data[m.SubPath]; !ok || !m.ReadOnly {
				t.Errorf("%s is not in the ConfigMap, or may be written", m.SubPath)
			}
		}
	}
	for i := range k.set.Spec.Replicas {
		fields := map[string]string{"metadata.name": fmt.Sprintf("%s-%d", k.set.Metadata.Name, i), "metadata.namespace": kubeNamespace}
		var args []string
		for _, a := range k.container().Args {
			for _, e := range k.container().Env {
				a = strings.ReplaceAll(a, "$("+e.Name+")", fields[e.From.Field.Path])
			}
			if strings.Contains(a, "$(") {
				t.Errorf("nothing fills %s", a)
			}
			args = append(args, a)
		}
		list = append(list, loaded(t, fields["metadata.name"], args, mounted, withKey(t, k.configMap.Data["kith.yaml"])))
	}
	return list
}

// The pods are a cluster, each by its own name in the headless service, with the
// configuration that deploy/kith.cluster.yaml is, secrets and data where they look
// for them.
func TestKubernetesNodes(t *testing.T) {
	k := kubernetes(t)
	nodes := k.nodes(t)
	isClusterOf(t, nodes)
	peers := k.services[k.set.Spec.ServiceName]
	if peers.Spec.ClusterIP != "None" || !peers.Spec.PublishNotReady {
		t.Errorf("nodes that are not ready do not find one another by %+v", peers)
	}
	for i, c := range nodes {
		pod := fmt.Sprintf("%s-%d", k.set.Metadata.Name, i)
		if want := pod + "." + k.set.Spec.ServiceName + "." + kubeNamespace + ".svc.cluster.local"; c.Node != pod || mustHost(t, c.Cluster.Listen) != want {
			t.Errorf("the pod %s is called %s and %s, not %s", pod, c.Node, c.Cluster.Listen, want)
		}
	}
	if want := "'*." + k.set.Spec.ServiceName + "." + kubeNamespace + ".svc.cluster.local'"; !strings.Contains(deployed(t, kubeFile), "cluster-secrets.sh secrets "+want) {
		t.Errorf("the comment does not say how a certificate for %s is made", want)
	}
	same, err := config.Parse([]byte(deployed(t, "kith.cluster.yaml")))
	if err != nil {
		t.Fatal(err)
	}
	got, err := config.Parse([]byte(k.configMap.Data["kith.yaml"]))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(same, got); diff != "" {
		t.Errorf("the ConfigMap is not deploy/kith.cluster.yaml: %s", diff)
	}
	if got.NeedKeys() == nil {
		t.Error("the ConfigMap has a key, which whoever reads this would know")
	}

	mounts := map[string]string{}
	for _, m := range k.container().Mounts {
		mounts[m.Name] = m.Path
		if m.ReadOnly == (m.Name == "data") {
			t.Errorf("the volume %s is mounted read-only: %t", m.Name, m.ReadOnly)
		}
	}
	for _, v := range k.pod().Volumes {
		switch {
		case v.ConfigMap.Name == k.configMap.Metadata.Name:
		case v.Secret.Name != "":
			takesSecrets(t, nodes[0], mounts[v.Name])
			if !strings.Contains(deployed(t, kubeFile), "create secret generic "+v.Secret.Name+" --from-file=secrets/nodes") {
				t.Errorf("the comment does not say how the secret %s is made", v.Secret.Name)
			}
		default:
			t.Errorf("the volume %s is of nothing", v.Name)
		}
	}
	if claim := k.set.Spec.Claims[0].Metadata.Name; len(k.set.Spec.Claims) != 1 || mounts[claim] != nodes[0].Data || nodes[0].LogDir != "" || nodes[0].StoreDir != "" {
		t.Errorf("data go to %s, the volume that stays is at %s", nodes[0].Data, mounts[claim])
	}
}

// Ports are those that nodes listen on, wherever they are named.
func TestKubernetesPorts(t *testing.T) {
	k := kubernetes(t)
	c := k.nodes(t)[0]
	want := map[string]kubePort{
		"public":     {ContainerPort: mustPort(t, c.Public, 0), Protocol: "TCP"},
		"service":    {ContainerPort: mustPort(t, c.Service, 0), Protocol: "TCP"},
		"gossip":     {ContainerPort: mustPort(t, c.Cluster.Listen, 0), Protocol: "TCP"},
		"gossip-udp": {ContainerPort: mustPort(t, c.Cluster.Listen, 0), Protocol: "UDP"},
		"log":        {ContainerPort: mustPort(t, c.Cluster.Listen, 1), Protocol: "TCP"},
	}
	got := map[string]kubePort{}
	for _, p := range k.container().Ports {
		got[p.Name] = kubePort{ContainerPort: p.ContainerPort, Protocol: p.Protocol}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ports: %s", diff)
	}
	labels := k.set.Spec.Template.Metadata.Labels
	offered := map[string][]string{}
	for name, s := range k.services {
		if diff := cmp.Diff(labels, s.Spec.Selector); diff != "" {
			t.Errorf("%s is of other pods: %s", name, diff)
		}
		for _, p := range s.Spec.Ports {
			offered[name] = append(offered[name], p.TargetPort)
			if to := want[p.TargetPort]; fmt.Sprint(p.Port) != fmt.Sprint(to.ContainerPort) || p.Protocol != to.Protocol {
				t.Errorf("%s offers %+v for %+v", name, p, to)
			}
		}
	}
	if diff := cmp.Diff(map[string][]string{
		"kith-peers": {"gossip", "gossip-udp", "log"}, "kith-public": {"public"}, "kith-service": {"service"},
	}, offered); diff != "" {
		t.Errorf("services: %s", diff)
	}
	for what, s := range map[string]kubeSelector{
		"the set": k.set.Spec.Selector, "the budget": k.budget.Spec.Selector, "the policy": k.policy.Spec.PodSelector,
		"anti-affinity": k.pod().Affinity.Anti.Required[0].Selector, "the wish for zones": k.pod().Affinity.Anti.Preferred[0].Term.Selector,
		"peers": *k.policy.Spec.Ingress[0].From[0].Pods,
	} {
		if diff := cmp.Diff(labels, s.MatchLabels); diff != "" {
			t.Errorf("%s is of other pods: %s", what, diff)
		}
	}
	open := map[string]string{}
	for _, rule := range k.policy.Spec.Ingress {
		from := "all"
		if len(rule.From) > 0 {
			from = "namespaces"
			if rule.From[0].Pods != nil {
				from = "peers"
			}
		}
		for _, p := range rule.Ports {
			open[fmt.Sprint(p.Port)] = from
			if p.Protocol != want[fmt.Sprint(p.Port)].Protocol {
				t.Errorf("the policy lets in %+v", p)
			}
		}
	}
	if diff := cmp.Diff(map[string]string{"gossip": "peers", "gossip-udp": "peers", "log": "peers", "service": "namespaces", "public": "all"}, open); diff != "" {
		t.Errorf("the policy lets in others: %s", diff)
	}
	a := k.set.Spec.Template.Metadata.Annotations
	if a["prometheus.io/scrape"] != "true" || a["prometheus.io/port"] != fmt.Sprint(want["service"].ContainerPort) || a["prometheus.io/path"] != "/metrics" {
		t.Errorf("Prometheus is told %v", a)
	}
}

// Probes ask for what a node answers, and are as patient as it takes.
func TestKubernetesProbes(t *testing.T) {
	k := kubernetes(t)
	c := k.container()
	n := startNode(t, t.TempDir())
	for what, p := range map[string]kubeProbe{"readiness": c.Readiness, "liveness": c.Liveness} {
		if p.HTTPGet.Port != "service" || p.TimeoutSeconds == 0 {
			t.Errorf("the %s probe asks at %s and waits %d s", what, p.HTTPGet.Port, p.TimeoutSeconds)
		}
		resp, err := http.Get(n.service + p.HTTPGet.Path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("a node answers the %s probe with %s", what, resp.Status)
		}
	}
	if c.Readiness.HTTPGet.Path != "/readyz" || c.Liveness.HTTPGet.Path != "/healthz" {
		t.Error("probes ask for other things than readiness and life")
	}
	lasts := func(p kubeProbe) time.Duration {
		return time.Duration(p.PeriodSeconds*p.FailureThreshold) * time.Second
	}
	const leaves = 4 * time.Second // a node that is parted from the log answers after it is not ready
	if d := lasts(c.Readiness); d < 2*time.Second || d >= leaves {
		t.Errorf("a node is taken out after %v: at once, or not while it answers", d)
	}
	x := k.nodes(t)[0]
	if time.Duration(x.StopWait) < 5*time.Second {
		t.Errorf("a node that stops answers for %v, before services have taken it out", x.StopWait)
	}
	if grace, least := time.Duration(k.pod().Grace)*time.Second, stopMax(t, x); grace <= least {
		t.Errorf("a node is killed after %v and may take %v to stop", grace, least)
	}
	if k.set.Spec.MinReady < 16 {
		t.Errorf("the next node goes %d s after one came, whose first opt-outs take 16", k.set.Spec.MinReady)
	}
}

// One node at a time is taken away, each is on a machine of its own, and none may
// do more than it needs.
func TestKubernetesRules(t *testing.T) {
	k := kubernetes(t)
	s, p, c := k.set.Spec, k.pod(), k.container()
	if k.budget.Spec.MaxUnavailable != 1 || s.Update.Type != "RollingUpdate" || s.Replicas != 3 {
		t.Errorf("%d of %d may be away", k.budget.Spec.MaxUnavailable, s.Replicas)
	}
	if s.Management != "Parallel" {
		t.Error("pods come one after the other, and the first waits for the second for ever")
	}
	if p.Affinity.Anti.Required[0].TopologyKey != "kubernetes.io/hostname" || p.Affinity.Anti.Preferred[0].Term.TopologyKey != "topology.kubernetes.io/zone" {
		t.Errorf("two may be on one machine: %+v", p.Affinity)
	}
	user := regexp.MustCompile(`(?m)^USER (\d+):(\d+)$`).FindStringSubmatch(deployed(t, "Dockerfile"))
	if x := p.Security; user == nil || fmt.Sprint(x.User) != user[1] || fmt.Sprint(x.Group) != user[2] || fmt.Sprint(x.FSGroup) != user[2] || !x.NonRoot || x.Seccomp.Type != "RuntimeDefault" {
		t.Errorf("the pod runs as %+v, the image as %v", x, user)
	}
	if x := c.Security; !x.ReadOnly || x.Escalation == nil || *x.Escalation || !slices.Equal(x.Capabilities.Drop, []string{"ALL"}) {
		t.Errorf("the container may do %+v", x)
	}
	if p.Token == nil || *p.Token || p.ServiceLinks == nil || *p.ServiceLinks {
		t.Error("the pod gets a token, or variables of services")
	}
	if c.Resources.Limits["cpu"] != "" || c.Resources.Limits["memory"] == "" || c.Resources.Limits["memory"] != c.Resources.Requests["memory"] {
		t.Errorf("resources are %+v", c.Resources)
	}
}

// kubectl, which knows Kubernetes' types, reads the set and writes it again: what
// it does not know is gone.
func TestKubernetesKnowsTheSet(t *testing.T) {
	tool, err := exec.LookPath("kubectl")
	if err != nil {
		t.Skip("kubectl is not installed: fields of the StatefulSet are checked against this test's own types only")
	}
	out, err := exec.Command(tool, "set", "env", "--local", "--filename", filepath.Join(deployDir, kubeFile), "--output", "json", "ADDED=1").Output()
	if len(out) == 0 { // it fails for the documents without a pod, after it has written the one with it
		t.Skipf("kubectl does not do that here: %v", err)
	}
	var known any
	if err := json.Unmarshal(out, &known); err != nil {
		t.Fatal(err)
	}
	docs := strings.Split(deployed(t, kubeFile), "\n---\n")
	var wrote any
	if err := yaml.Unmarshal([]byte(docs[len(docs)-1]), &wrote); err != nil {
		t.Fatal(err)
	}
	within(t, "", wrote, known)
}

// within fails for what is in a and not in b, or otherwise.
func within(t *testing.T, at string, a, b any) {
	t.Helper()
	switch x := a.(type) {
	case map[string]any:
		y, _ := b.(map[string]any)
		for k, v := range x {
			if _, ok := y[k]; !ok {
				t.Errorf("Kubernetes does not know %s.%s", at, k)
				continue
			}
			within(t, at+"."+k, v, y[k])
		}
	case []any:
		y, _ := b.([]any)
		if len(x) != len(y) && !strings.HasSuffix(at, ".env") {
			t.Errorf("%s has %d of %d", at, len(y), len(x))
			return
		}
		for i := range x {
			within(t, fmt.Sprintf("%s[%d]", at, i), x[i], y[i])
		}
	default:
		if fmt.Sprint(a) != fmt.Sprint(b) {
			t.Errorf("%s is %v, Kubernetes takes it for %v", at, a, b)
		}
	}
}
