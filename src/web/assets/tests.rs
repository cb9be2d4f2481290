use super::*;

#[test]
fn the_page_is_told_the_language_and_the_country_of_the_settings() {
    let settings = WebSettings {
        language: Some(Lang::Ru),
        ..WebSettings::new(Country::parse("BR").expect("a country"))
    };
    let house = house(&settings).expect("a file");
    let text = String::from_utf8(house.body.to_vec()).expect("text");
    assert!(text.contains("language: 'ru'") && text.contains("country: 'BR'"));
    for group in ["1AGAI", "US", "7KZRU20EG", "44GB", "380UA"] {
        assert!(text.contains(group), "{group} in {text}");
    }
    assert!(text.contains(r#"languages: {"en":"English","ru":"Русский"}"#));
}

#[test]
fn only_files_of_a_known_type_are_served() {
    assert!(exists("/") && exists("/index.html"));
    for path in [
        "",
        "index.html",
        "/README.md",
        "/.gitkeep",
        "/..",
        "//index.html",
        "/js/",
    ] {
        assert!(!exists(path), "{path}");
    }
}

#[test]
fn all_files_together_are_light() {
    let house = house(&WebSettings::new(Country::parse("RU").expect("a country")));
    let house = house.expect("a file").body.len();
    let (mut whole, mut sent) = (house, house);
    for name in Files::iter() {
        let found = find(&format!("/{name}")).expect("every file is of a known type");
        let asset = Asset::new(found);
        if name == HOUSE.trim_start_matches('/') {
            continue;
        }
        whole += asset.body.len();
        sent += asset.gzipped.map_or(asset.body.len(), <[u8]>::len);
    }
    assert!(whole <= 60_000, "{whole} bytes");
    assert!(sent <= 30_000, "{sent} bytes gzipped");
}

#[test]
fn what_only_authors_read_is_left_behind() {
    let slimmed = |name: &str, text: &str| {
        let slim = slim::slim(name, text.as_bytes()).expect("a script or a style");
        String::from_utf8(slim).expect("text")
    };
    for (text, slim) in [
        (
            "// Why.\n\tconst a = 'http://x'; // and\n\n\tb();\n",
            "const a = 'http://x';\nb();",
        ),
        ("if (a) {\n\tb();\n\tc()\n}\n", "if(a){b();c()}"),
        ("f(1, // one\n\t2);\n", "f(1,2);"),
        ("a = b ? 'c ? d' : e;\n", "a=b?'c ? d':e;"),
        ("a = /b, c/;\nd = `e, f`;\n", "a = /b, c/;d = `e, f`;"),
        // What may be part of a text stays, and so does the end of its line.
        (
            "a = ' // ';\nb // isn't;\nc\n",
            "a = ' // ';\nb // isn't;\nc\n",
        ),
    ] {
        assert_eq!(slimmed("js/a.js", text), slim);
    }
    let style = slimmed(
        "a.css",
        "/* One. */\na{\n\tb:c d, e;\n}\n/* Two. */ a :f{}\n",
    );
    assert_eq!(style, "a{b:c d,e;}/* Two. */ a :f{}");
    let texts = slimmed("i18n/en.json", "{\n\"a\":\"b, c\",\n\"d\":\"e\"\n}\n");
    assert_eq!(texts, "{\"a\":\"b, c\",\"d\":\"e\"}\n");
    let page = slimmed("index.html", "<p>\n\t<b>a</b>\n</p>\n");
    assert_eq!(page, "<p><b>a</b></p>");
    assert_eq!(slim::slim("icon.svg", b"<svg>\n</svg>"), None);
}

#[test]
fn what_is_gzipped_is_what_would_be_sent_without() {
    for name in Files::iter() {
        let asset = Asset::new(find(&format!("/{name}")).expect("known"));
        if let Some(mut gzipped) = asset.gzipped {
            let mut plain = Vec::new();
            std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&mut gzipped), &mut plain)
                .expect("gzip");
            assert_eq!(plain, *asset.body, "{name}");
        }
    }
}

#[test]
fn gzip_is_sent_to_whoever_takes_it() {
    for (accepted, taken) in [
        ("gzip, deflate, br, zstd", true),
        ("br;q=1.0, GZIP;q=0.5", true),
        ("*", true),
        ("*, gzip;q=0", false),
        ("gzip;q=0, *", false),
        ("gzip;q=0.000", false),
        ("gzip;q=nonsense", false),
        ("br", false),
        ("", false),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(accepted));
        assert_eq!(takes_gzip(&headers), taken, "{accepted}");
    }
    assert!(!takes_gzip(&HeaderMap::new()));
}

type Texts = std::collections::BTreeMap<String, serde_json::Value>;

fn texts(lang: &str) -> Texts {
    let file = Files::get(&format!("i18n/{lang}.json")).expect("a language");
    serde_json::from_slice(&file.data).expect("JSON")
}

/// The `{names}` that a text is filled with.
fn blanks(text: &serde_json::Value) -> std::collections::BTreeSet<String> {
    let text = text.to_string();
    let found = text
        .split('{')
        .skip(1)
        .filter_map(|rest| rest.split_once('}'));
    found
        .map(|(name, _)| name.to_owned())
        .filter(|name| name.chars().all(char::is_alphanumeric))
        .collect()
}

#[test]
fn every_language_says_the_same_things() {
    let english = texts("en");
    for name in Files::iter().filter(|name| name.starts_with("i18n/")) {
        let lang = name.trim_start_matches("i18n/").trim_end_matches(".json");
        let other = texts(lang);
        let keys = |texts: &Texts| texts.keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&english), keys(&other), "{lang}");
        for (key, text) in &english {
            let theirs = &other[key];
            assert_eq!(blanks(text), blanks(theirs), "{lang} {key}");
            assert_eq!(text.is_object(), theirs.is_object(), "{lang} {key}");
            assert_eq!(
                text.as_array().map(Vec::len),
                theirs.as_array().map(Vec::len),
                "{lang} {key}"
            );
        }
    }
    for (lang, forms) in [
        ("en", &["one", "other"][..]),
        ("ru", &["few", "one", "other"]),
    ] {
        for (key, text) in texts(lang).iter().filter(|(_, text)| text.is_object()) {
            let found: Vec<&String> = text.as_object().expect("forms").keys().collect();
            assert_eq!(found, forms, "{lang} {key}");
        }
    }
}

#[test]
fn every_state_has_words_and_every_trouble_a_way_on() {
    let api: serde_json::Value =
        serde_json::from_str(include_str!("../openapi.json")).expect("JSON");
    let states = api["components"]["schemas"]["Status"]["properties"]["state"]["enum"].as_array();
    for lang in ["en", "ru"] {
        let texts = texts(lang);
        for state in states.expect("a list") {
            let state = state.as_str().expect("a name");
            if texts.contains_key(&format!("s.{state}")) {
                continue;
            }
            let told = texts[&format!("x.{state}")].as_array().expect("lines");
            // What happened, more of it, what to do; the button, where "try again" says too little.
            assert!((3..=4).contains(&told.len()), "{lang} {state}");
            for line in told {
                assert!(
                    line.as_str().is_some_and(|line| line.len() > 5),
                    "{lang} {state}"
                );
            }
        }
    }
}

/// What follows a mark in the page's own text, up to the first character that ends a key.
fn keys_after<'a>(text: &'a str, mark: &'a str) -> impl Iterator<Item = &'a str> {
    let ends = |c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '_';
    text.split(mark)
        .skip(1)
        .map(move |rest| rest.split(ends).next().unwrap_or_default())
}

#[test]
fn whatever_the_page_says_is_in_its_languages_and_nothing_else_is() {
    let mut source = String::new();
    for name in Files::iter().filter(|name| !name.starts_with("i18n/")) {
        let file = Files::get(&name).expect("a file");
        source.push_str(&String::from_utf8_lossy(&file.data));
    }
    let texts = texts("en");
    for mark in ["data-t=", "data-label=", " t('", "(t('", "`x.", "has('"] {
        for key in keys_after(&source, mark).filter(|key| !key.is_empty()) {
            assert!(texts.contains_key(key), "{mark}{key} has no words");
        }
    }
    for key in texts.keys() {
        let (family, _) = key.rsplit_once('.').unwrap_or((key, ""));
        let is_said = source.contains(key.as_str()) || source.contains(&format!("`{family}.${{"));
        assert!(is_said, "nobody says {key}");
    }
}
