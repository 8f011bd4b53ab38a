package gateway

import "strings"

// agent is what a user agent says of who uses it. Names are in lower case; an
// empty one is not known.
type agent struct {
	browser, os string
	device      string // desktop, phone, tablet, tv, console or bot
	bot         bool
}

// The classes of devices.
const (
	deviceDesktop = "desktop"
	devicePhone   = "phone"
	deviceTablet  = "tablet"
	deviceTV      = "tv"
	deviceConsole = "console"
	deviceBot     = "bot"
)

// robotAgent is any crawler, script or other program without a person at it.
var robotAgent = agent{device: deviceBot, bot: true}

// mark is a part of a user agent in lower case, and what it stands for.
type mark struct{ part, name string }

// first is what the first mark that s has stands for.
func first(marks []mark, s string) string {
	for i := range marks {
		if strings.Contains(s, marks[i].part) {
			return marks[i].name
		}
	}
	return ""
}

func hasAny(s string, parts []string) bool {
	for _, part := range parts {
		if strings.Contains(s, part) {
			return true
		}
	}
	return false
}

// browserMarks are the browsers, those first that name others too.
var browserMarks = []mark{
	// Apps that show pages themselves.
	{"fbav/", "facebook"},
	{"fban/", "facebook"},
	{"instagram", "instagram"},
	{"musical_ly", "tiktok"},
	{"bytedancewebview", "tiktok"},
	{"tiktok", "tiktok"},
	{"snapchat", "snapchat"},
	{"[pinterest/", "pinterest"},
	{"linkedinapp", "linkedin"},
	{" line/", "line"},
	{"micromessenger/", "wechat"},
	{"twitter for ", "twitter"},
	{" gsa/", "google app"},

	{"opera mini/", "opera mini"},
	{"opr/", "opera"},
	{"opx/", "opera"},
	{"opios/", "opera"},
	{" opt/", "opera"},
	{"edg/", "edge"},
	{"edga/", "edge"},
	{"edgios/", "edge"},
	{"edge/", "edge"},
	{"vivaldi/", "vivaldi"},
	{"yabrowser/", "yandex browser"},
	{"yasearchbrowser/", "yandex browser"},
	{"samsungbrowser/", "samsung internet"},
	{"ucbrowser", "uc browser"},
	{" ubrowser/", "uc browser"},
	{"ucweb", "uc browser"},
	{"miuibrowser/", "miui browser"},
	{"huaweibrowser/", "huawei browser"},
	{"heytapbrowser/", "heytap browser"},
	{"vivobrowser/", "vivo browser"},
	{"qqbrowser", "qq browser"},
	{"metasr", "sogou explorer"},
	{"360se", "360 browser"},
	{"qihu", "360 browser"},
	{"brave/", "brave"},
	{"duckduckgo/", "duckduckgo"},
	{" ddg/", "duckduckgo"},
	{"ecosia ", "ecosia"},
	{" whale/", "whale"},
	{"coc_coc_browser/", "coc coc"},
	{"avast/", "avast secure browser"},
	{"silk/", "silk"},
	{"puffin/", "puffin"},
	{"crazy browser", "crazy browser"},
	{"myie2", "myie2"},
	{"maxthon", "maxthon"},
	{"mxbrowser/", "maxthon"},
	{"avant browser", "avant"},
	{"lunascape", "lunascape"},
	{"nintendobrowser/", "nintendo browser"},
	{"netfront", "netfront"},
	{"iemobile", "ie mobile"},
	{"opera", "opera"},
	{"konqueror", "konqueror"},
	{"elinks", "elinks"},
	{"lynx/", "lynx"},
	{"w3m/", "w3m"},
	{"links (", "links"},
	{"dillo/", "dillo"},
	{"icab", "icab"},
	{"omniweb", "omniweb"},
	{"palemoon/", "pale moon"},
	{"waterfox/", "waterfox"},
	{"librewolf/", "librewolf"},
	{"seamonkey/", "seamonkey"},
	{"iceape/", "seamonkey"},
	{"camino/", "camino"},
	{"galeon", "galeon"},
	{"epiphany", "epiphany"},
	{"k-meleon", "k-meleon"},
	{"shiira", "shiira"},
	{"netscape", "netscape"},
	{"navigator/", "netscape"},
	{"fxios/", "firefox"},
	{"focus/", "firefox"},
	{"klar/", "firefox"},
	{"firefox", "firefox"},
	{"iceweasel", "firefox"},
	{"bonecho/", "firefox"},
	{"granparadiso/", "firefox"},
	{"minefield/", "firefox"},
	{"phoenix/", "firefox"},
	{"msie ", "ie"},
	{"trident/", "ie"},
	{"chromium/", "chromium"},
	{"; wv)", "webview"},
	{"crios/", "chrome"},
	{"chrome/", "chrome"},
	{"blackberry", "blackberry browser"},
	{"(bb10", "blackberry browser"},
	{"up.browser", "up.browser"},
}

// osMarks are the operating systems, those first that name others too.
var osMarks = []mark{
	{"windows phone", "windows phone"},
	{"windows ce", "windows mobile"},
	{"xbox", "xbox"},
	{"iphone", "ios"},
	{"ipad", "ios"},
	{"ipod", "ios"},
	{"windows", "windows"},
	{"winnt", "windows"},
	{"win98", "windows"},
	{"win95", "windows"},
	{"win 9x", "windows"},
	{"win32", "windows"},
	{"kaios/", "kaios"},
	{"harmonyos", "harmonyos"},
	{"openharmony", "harmonyos"},
	{"tizen", "tizen"},
	{"android", "android"},
	{"web0s", "webos"},
	{"webos", "webos"},
	{"netcast", "netcast"},
	{" cros ", "chrome os"},
	{"playstation", "playstation"},
	{"nintendo", "nintendo"},
	{"roku", "roku"},
	{"apple tv", "tvos"},
	{"appletv", "tvos"},
	{"tvos", "tvos"},
	{"watchos", "watchos"},
	{" ios ", "ios"},
	{"(ios", "ios"},
	{"; ios", "ios"},
	{"symbian", "symbian"},
	{"symbos", "symbian"},
	{"series60", "symbian"},
	{"blackberry", "blackberry"},
	{"(bb10", "blackberry"},
	{"playbook", "blackberry"},
	{"palmos", "palm os"},
	{"macintosh", "macos"},
	{"mac os", "macos"},
	{"mac_powerpc", "macos"},
	{"macos", "macos"},
	{"freebsd", "freebsd"},
	{"openbsd", "openbsd"},
	{"netbsd", "netbsd"},
	{"sunos", "solaris"},
	{"irix", "irix"},
	{"hp-ux", "hp-ux"},
	{"amiga", "amiga os"},
	{"beos", "beos"},
	{"os/2", "os/2"},
	{"risc os", "risc os"},
	{"linux", "linux"},
	{"ubuntu", "linux"},
	{"x11", "unix"},
}

// Parts of user agents of devices other than desktop computers.
var (
	tvMarks = []string{
		"smart-tv", "smarttv", "smart tv", "googletv", "google tv", "android tv", "apple tv", "appletv", "tvos", "hbbtv", "web0s",
		"netcast", "bravia", "roku", "crkey", "viera", "aquos-tv", "philipstv", "inettvbrowser", "dtv", "opera tv", " tv;", " aft", "mitv", "vidaa",
	}
	consoleMarks = []string{"playstation", "xbox", "nintendo"}
	tabletMarks  = []string{"ipad", "tablet", "kindle", "playbook", " sm-t", "silk/"}
	phoneMarks   = []string{
		"iphone", "ipod", "mobi", "phone", "blackberry", "symbian", "series60", "opera mini", "kaios", "palmos", "hpwos", "windows ce", "midp",
		"up.browser", "up.link", "nokia", "sonyericsson", "docomo", "kddi", "j-phone", "vodafone", "samsung-", "sec-s", "mot-", "sie-", "lg-", "lge-", "portalmmm", "cldc",
	}
	desktopOS = []string{
		"windows", "macos", "linux", "chrome os", "unix", "freebsd", "openbsd", "netbsd", "solaris", "irix", "hp-ux", "amiga os", "beos", "os/2", "risc os",
	}
)

// robotMarks are parts of user agents that people's browsers do not have:
// crawlers, feed fetchers, link checkers, monitors, libraries for programs.
var robotMarks = []string{
	"crawl", "spider", "slurp", "monitor", "archive", "+http", "externalhit", "mediapartners", "bingpreview", "web preview",
	"feedparser", "feedburner", "feedfetcher", "feedly", "feedbin", "rss/", "fetch", "scraper", "scrapy", "nutch", "larbin", "httrack", "heritrix",
	"validator", "linkcheck", "link check", "checker", "check_http", "check-http", "uptime", "pingdom", "gtmetrix", "ptst/", "synthetic", "lighthouse", "page speed",
	"headless", "phantomjs", "selenium", "puppeteer", "playwright", "htmlunit",
	"curl/", "wget", "python", "aiohttp", "java/", "libwww", "lwp", "perl", "ruby", "php/", "httpclient", "http-client", "http_client", "http client", "go-http",
	"guzzle", "axios", "node-fetch", "undici", "winhttp", "postman", "insomnia", "httpie", "mechanize",
	"imageproxy", "flipboardproxy", "whatsapp/", "telegram", "skypeuripreview", "slack-img", "embedly", "googleother", "google-read", "google-inspection", "google-safety", "google-site", "google-ads", "google favicon", "gptbot", "chatgpt", "claude", "perplexity",
	"search engine", "indexer", "sitemap", "scanner", "scanning", "webcopier", "sitesucker", "nikto", "openvas", "zgrab", "ips-agent", "dareboost", "siteimprove", "brandverity", "teleport", "webzip", "offline",
}

// appMarks are what apps' own requests name, whoever's they are.
var appMarks = []string{"cfnetwork", "okhttp", "dalvik", "alamofire", "volley", "ktor", "dart", "reactnative", "react-native"}

// readAgent reads a user agent. What is over agentBytesMax bytes is not looked at.
func readAgent(text string) agent {
	var room [agentBytesMax]byte
	n := copy(room[:], text)
	for i, c := range room[:n] {
		if c >= 'A' && c <= 'Z' {
			room[i] = c | 0x20
		}
	}
	s := alias(room[:n])
	if namesRobot(s) {
		return robotAgent
	}
	a := agent{browser: browserOf(s), os: first(osMarks, s)}
	a.device = deviceOf(s, a.os)
	if namesNoBrowser(s, &a) {
		return robotAgent
	}
	return a
}

// namesRobot reports whether a user agent says that it is a program. "-" is what
// logs have of a request without one.
func namesRobot(s string) bool {
	if strings.HasPrefix(s, "lynx/") { // which names the library that it is made with
		return false
	}
	if s == "-" || hasAny(s, robotMarks) {
		return true
	}
	for rest := s; ; {
		i := strings.Index(rest, "bot")
		if i < 0 {
			return false
		}
		if !strings.HasSuffix(rest[:i], "cu") { // Cubot makes telephones
			return true
		}
		rest = rest[i+len("bot"):]
	}
}

// namesNoBrowser reports whether a user agent has the form of a program's: no
// browser, system or device in it, something that says to be compatible with what
// browsers are, or where its owner can be found. Toolbars put such into those of
// Internet Explorer.
func namesNoBrowser(s string, a *agent) bool {
	switch {
	case strings.HasPrefix(s, "mozilla/"):
		if strings.Contains(s, "compatible;") && (a.browser == "" && a.os == "" || strings.Contains(s, "applewebkit")) {
			return true
		}
		if strings.Contains(s, "http://") || strings.Contains(s, "https://") {
			return !strings.Contains(s, "msie ")
		}
		return strings.Contains(s, "@") && strings.Contains(s, "applewebkit")
	case a.browser == "" && a.os == "" && a.device == "":
		return !hasAny(s, appMarks)
	}
	return false
}

func browserOf(s string) string {
	if name := first(browserMarks, s); name != "" {
		return name
	}
	apple := strings.Contains(s, "iphone") || strings.Contains(s, "ipad") || strings.Contains(s, "ipod")
	switch {
	case !strings.Contains(s, "applewebkit"):
		return ""
	case strings.Contains(s, "android"):
		return "android browser"
	case strings.Contains(s, "safari/"):
		return "safari"
	case apple:
		return "webview"
	}
	return ""
}

func deviceOf(s, os string) string {
	switch {
	case hasAny(s, consoleMarks):
		return deviceConsole
	case hasAny(s, tvMarks):
		return deviceTV
	case os == "windows" && !strings.Contains(s, "phone"):
		return deviceDesktop // Tablet PC is a part of Windows
	case hasAny(s, tabletMarks):
		return deviceTablet
	case hasAny(s, phoneMarks):
		return devicePhone
	case os == "android" || os == "harmonyos":
		return deviceTablet // telephones say Mobile
	}
	for _, name := range desktopOS {
		if os == name {
			return deviceDesktop
		}
	}
	return ""
}

// brandMarks are browsers that look like Chrome but for their client hints.
var brandMarks = []mark{
	{`"Brave"`, "brave"},
	{`"Microsoft Edge"`, "edge"},
	{`"Opera"`, "opera"},
	{`"Opera GX"`, "opera"},
	{`"Vivaldi"`, "vivaldi"},
	{`"YaBrowser"`, "yandex browser"},
	{`"Yandex"`, "yandex browser"},
	{`"Samsung Internet"`, "samsung internet"},
	{`"DuckDuckGo"`, "duckduckgo"},
	{`"Whale"`, "whale"},
	{`"Android WebView"`, "webview"},
}

// platformNames are the operating systems as client hints have them.
var platformNames = map[string]string{
	`"Android"`: "android", `"Chrome OS"`: "chrome os", `"Chromium OS"`: "chrome os", `"iOS"`: "ios", `"Linux"`: "linux", `"macOS"`: "macos", `"Windows"`: "windows",
}

// heedHints corrects a by the client hints that browsers send unasked:
// Sec-CH-UA, Sec-CH-UA-Mobile and Sec-CH-UA-Platform.
func (a *agent) heedHints(brands, mobile, platform string) {
	brands = brands[:min(len(brands), agentBytesMax)]
	if strings.Contains(brands, "HeadlessChrome") {
		*a = robotAgent
	}
	if a.bot || brands == "" {
		return
	}
	if name := first(brandMarks, brands); name != "" && (a.browser == "" || a.browser == "chrome") {
		a.browser = name
	}
	if name := platformNames[platform]; name != "" {
		a.os = name
	}
	switch {
	case a.device == deviceTV || a.device == deviceConsole:
	case mobile == "?1":
		a.device = devicePhone
	case mobile == "?0" && a.os == "android":
		a.device = deviceTablet
	case mobile == "?0" && a.device == "":
		a.device = deviceDesktop
	}
}
