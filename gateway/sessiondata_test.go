package gateway_test

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"kith/gateway"
)

// sharedData is where public lists lie outside of this repository.
const sharedData = "../../shared/data/"

func readShared(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(sharedData + name)
	if err != nil {
		t.Skipf("the public list is not here: %v", err)
	}
	return b
}

// listedAgent is a user agent of uap-core's list with the browser that it is.
type listedAgent struct {
	Agent  string `yaml:"user_agent_string"`
	Family string `yaml:"family"`
}

func listedAgents(t *testing.T) []listedAgent {
	t.Helper()
	var list struct {
		Cases []listedAgent `yaml:"test_cases"`
	}
	if err := yaml.Unmarshal(readShared(t, "uap_pgts_browser_list.yaml"), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Cases) < 10_000 {
		t.Fatalf("only %d user agents", len(list.Cases))
	}
	return list.Cases
}

// familyNames are that list's families as kith names them. Those that are not
// here are robots, programs or browsers that kith has no name for.
var familyNames = map[string]string{
	"IE": "ie", "Firefox": "firefox", "Bon Echo": "firefox", "Phoenix": "firefox", "Opera": "opera", "Opera Mobile": "opera", "Opera Mini": "opera mini",
	"Netscape": "netscape", "Safari": "safari", "MyIE2": "myie2", "Konqueror": "konqueror", "Galeon": "galeon", "Maxthon": "maxthon", "Links": "links",
	"Epiphany": "epiphany", "Crazy Browser": "crazy browser", "Lynx": "lynx", "Camino": "camino", "Avant": "avant", "ELinks": "elinks", "K-Meleon": "k-meleon",
	"NetFront": "netfront", "iCab": "icab", "Dillo": "dillo", "Shiira": "shiira", "OmniWeb": "omniweb", "Lunascape": "lunascape", "UP.Browser": "up.browser",
}

// The list says "Other" of much that is a browser, such as w3m, so that precision is
// better than what is printed.
func TestBrowsersOfRealUserAgents(t *testing.T) {
	type tally struct{ right, wrong, missed int }
	of := map[string]*tally{}
	people, robots := 0, 0
	for _, x := range listedAgents(t) {
		want, known := familyNames[x.Family]
		got := gateway.ReadAgent(x.Agent)
		if known {
			people++
			if got.Bot {
				robots++
				t.Logf("a robot, and %s: %s", want, x.Agent)
				continue
			}
		}
		for _, name := range []string{want, got.Browser} {
			if name != "" && of[name] == nil {
				of[name] = &tally{}
			}
		}
		switch {
		case got.Browser == want && known:
			of[want].right++
		case known:
			of[want].missed++
			if got.Browser != "" {
				of[got.Browser].wrong++
			}
			if of[want].missed < 4 {
				t.Logf("%q, not %s: %s", got.Browser, want, x.Agent)
			}
		case got.Browser != "":
			of[got.Browser].wrong++
			if of[got.Browser].wrong < 6 {
				t.Logf("%q, not (%s): %s", got.Browser, x.Family, x.Agent)
			}
		}
	}
	var names []string
	right, wrong, missed := 0, 0, 0
	for name, n := range of {
		names = append(names, name)
		right, wrong, missed = right+n.right, wrong+n.wrong, missed+n.missed
	}
	slices.Sort(names)
	for _, name := range names {
		n := of[name]
		t.Logf("%-18s %5d right, %4d wrong, %4d missed", name, n.right, n.wrong, n.missed)
	}
	precision, recall := float64(right)/float64(right+wrong), float64(right)/float64(right+missed)
	t.Logf("browsers: precision %.4f, recall %.4f of %d; %d of %d people's are taken for robots", precision, recall, right+missed, robots, people)
	if people < 9000 || precision < 0.975 || recall < 0.99 || robots > 20 {
		t.Error("want a precision of 0.975, a recall of 0.99, and 20 robots at most")
	}
}

func TestRobotsOfRealUserAgents(t *testing.T) {
	var list []struct {
		Pattern   string
		Instances []string
	}
	if err := json.Unmarshal(readShared(t, "crawler-user-agents.json"), &list); err != nil {
		t.Fatal(err)
	}
	found, all := 0, 0
	for _, x := range list {
		for _, s := range x.Instances {
			all++
			if gateway.ReadAgent(s).Bot {
				found++
			} else {
				t.Logf("%s: %s", x.Pattern, s)
			}
		}
	}
	t.Logf("robots: %d of %d (%.3f)", found, all, float64(found)/float64(all))
	if all < 2000 || found*100 < all*96 {
		t.Error("want 96 in 100")
	}
}

// Matomo's lists, read anew: each host with each of its parameters.
func TestSearchEnginesOfTheWholeList(t *testing.T) {
	var engines map[string][]struct {
		URLs   []string `yaml:"urls"`
		Params []string `yaml:"params"`
	}
	if err := yaml.Unmarshal(readShared(t, "matomo_SearchEngines.yml"), &engines); err != nil {
		t.Fatal(err)
	}
	s := gateway.NewSessions()
	found, all := 0, 0
	for name, parts := range engines {
		want := strings.ToLower(strings.ReplaceAll(name, "!", ""))
		for _, part := range parts {
			for _, host := range part.URLs {
				for _, param := range part.Params {
					if strings.HasPrefix(param, "/") || strings.HasPrefix(host, "android") {
						continue // terms in a path are not read
					}
					all++
					host := strings.ReplaceAll(host, "{}", "fr")
					slash := "/"
					if strings.Contains(host, "/") {
						slash = ""
					}
					if engine, terms := s.Search("https://" + host + slash + "?a=b&" + param + "=Blaue+Autos%20"); engine == want && terms == "blaue autos" {
						found++
					} else {
						t.Logf("%s ?%s=: %q %q, not %q", host, param, engine, terms, want)
					}
				}
			}
		}
	}
	t.Logf("search engines: %d of %d hosts and parameters", found, all)
	if all < 800 || found*100 < all*99 {
		t.Error("want 99 in 100")
	}
}

func TestReferrersOfARealLog(t *testing.T) {
	s := gateway.NewSessions()
	// What a reader of the log would take for a search: by hosts and paths of the
	// engines that are in it.
	searches := regexp.MustCompile(`^https?://((www|encrypted|images)\.)?google\.[a-z.]+/?(search|url|images|imgres|cse|m\?|$|\?|#)|^https?://(www\.)?bing\.com/(images/)?(search|$)|` +
		`^https?://(r\.|www\.)?duckduckgo\.com/|^https?://((www|images)\.)?yandex\.[a-z.]+/|search\.yahoo\.[a-z.]+/|^https?://www\.baidu\.com/(s|link)?(\?|$)|^https?://search\.daum\.net/`)
	found, all, engines, terms, hosts, wrong, missed := map[string]int{}, 0, 0, 0, 0, 0, 0
	for line := range strings.Lines(string(readShared(t, "apache_combined_semicomplete_2015.log"))) {
		parts := strings.Split(line, `"`)
		if len(parts) < 5 || parts[3] == "-" {
			continue
		}
		ref := parts[3]
		all++
		if gateway.RefHost(ref) != "" {
			hosts++
		} else {
			t.Logf("no host: %s", ref)
		}
		engine, q := s.Search(ref)
		if engine != "" {
			engines++
			found[engine]++
		}
		if q != "" {
			terms++
		}
		switch by := searches.MatchString(ref); {
		case by && engine == "":
			missed++
			t.Logf("missed: %s", ref)
		case !by && engine != "":
			wrong++
			t.Logf("%s: %s", engine, ref)
		}
	}
	t.Logf("%d referrers, %d with a host, %d searches, %d with terms: %v; %d wrong, %d missed", all, hosts, engines, terms, found, wrong, missed)
	if all < 5900 || hosts < all-5 || engines < 550 || terms < 50 || wrong > 0 || missed > 0 {
		t.Error("want a host in all but 5 that are none, 550 searches, 50 with terms, none wrong or missed")
	}
}
