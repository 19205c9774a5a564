//! Signed tokens.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, SignatureAlgorithm};
use serde_json::{Value, json};

use super::*;

struct Signer {
    algorithm: Algorithm,
    public: String,
    key: EncodingKey,
}

impl Signer {
    fn new(algorithm: Algorithm) -> Self {
        let kind: &SignatureAlgorithm = match algorithm {
            Algorithm::ES256 => &PKCS_ECDSA_P256_SHA256,
            Algorithm::EdDSA => &PKCS_ED25519,
            _ => &PKCS_RSA_SHA256,
        };
        let pair = KeyPair::generate_for(kind).unwrap();
        let pem = pair.serialize_pem();
        let key = match algorithm {
            Algorithm::ES256 => EncodingKey::from_ec_pem(pem.as_bytes()),
            Algorithm::EdDSA => EncodingKey::from_ed_pem(pem.as_bytes()),
            _ => EncodingKey::from_rsa_pem(pem.as_bytes()),
        };
        Self { algorithm, public: pair.public_key_pem(), key: key.unwrap() }
    }

    fn sign(&self, claims: &Value) -> String {
        self.sign_with(&Header::new(self.algorithm), claims)
    }

    fn sign_with(&self, header: &Header, claims: &Value) -> String {
        encode(header, claims, &self.key).unwrap()
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn claims() -> Value {
    json!({
        "iss": "https://auth.example.com", "aud": "larder", "sub": "ci", "exp": now() + 300, "nbf": now() - 5,
        "access": [{"type": "repository", "name": "quay.io/org/app", "actions": ["pull", "push"]}],
    })
}

fn changed(key: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[key] = value;
    claims
}

fn open(files: &Files, keys: &str) -> Result<Access, DoorError> {
    let jwt = JwtConfig {
        issuer: "https://auth.example.com".to_owned(),
        service: "larder".to_owned(),
        keys: files.write("keys", keys),
        realm: Some("https://auth.example.com/token".to_owned()),
    };
    Access::open(&AccessConfig { jwt: Some(jwt), ..AccessConfig::default() }, false)
}

async fn identify(access: &Access, token: &str) -> Result<Caller, Refused> {
    access.identify(&authorization(&format!("Bearer {token}"))).await
}

#[tokio::test]
async fn believes_what_the_service_signed_with_any_of_its_keys() {
    let signers = [Algorithm::ES256, Algorithm::EdDSA, Algorithm::RS256].map(Signer::new);
    let all: String = signers.iter().map(|signer| signer.public.as_str()).collect();
    let access = open(&Files::new(), &all).unwrap();
    for signer in &signers {
        let token = signer.sign(&claims());
        for _ in 0..2 {
            let caller = identify(&access, &token).await.unwrap();
            assert_eq!(caller.name(), Some("ci"));
            assert!(access.allows(&caller, Action::Push, "quay.io/org/app"));
            assert!(!access.allows(&caller, Action::Delete, "quay.io/org/app"));
            assert!(!access.allows(&caller, Action::Pull, "quay.io/org/app/base"));
            assert!(!access.allows(&caller, Action::Pull, "quay.io/org"));
        }
        let (head, signature) = token.rsplit_once('.').unwrap();
        let other = Signer::new(signer.algorithm).sign(&claims());
        let (_, other) = other.rsplit_once('.').unwrap();
        for token in [format!("{head}.{other}"), format!("{head}."), format!("x{head}.{signature}")] {
            assert_eq!(identify(&access, &token).await, Err(Refused::Credentials));
        }
    }
}

#[tokio::test]
async fn refuses_claims_that_do_not_hold() {
    let signer = Signer::new(Algorithm::ES256);
    let access = open(&Files::new(), &signer.public).unwrap();
    for (key, value, is_believed) in [
        ("sub", json!("ci"), true),
        ("aud", json!(["other", "larder"]), true),
        ("aud", json!("other"), false),
        ("aud", json!(null), false),
        ("iss", json!("https://evil.example.com"), false),
        ("iss", json!(null), false),
        ("exp", json!(now() - 60), false),
        ("exp", json!(null), false),
        ("nbf", json!(now() + 120), false),
        ("access", json!("all"), false),
        ("access", json!(vec![json!({"type": "repository", "name": "a", "actions": []}); 1_001]), false),
    ] {
        let outcome = identify(&access, &signer.sign(&changed(key, value.clone()))).await;
        assert_eq!(outcome.is_ok(), is_believed, "{key}: {value}");
    }
}

#[tokio::test]
async fn refuses_tokens_that_choose_how_they_are_verified() {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let files = Files::new();
    let signer = Signer::new(Algorithm::ES256);
    let access = open(&files, &signer.public).unwrap();
    let unsigned = |head: Value| {
        let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.", encode(head), encode(claims()))
    };
    let mut tokens = vec![unsigned(json!({"alg": "none"})), unsigned(json!({"alg": "None", "typ": "JWT"}))];
    // The public key as a shared secret.
    let shared = EncodingKey::from_secret(signer.public.as_bytes());
    tokens.push(encode(&Header::new(Algorithm::HS256), &claims(), &shared).unwrap());
    // A key of one's own, in the token.
    let own = Signer::new(Algorithm::ES256);
    let mut header = Header::new(Algorithm::ES256);
    header.jwk = Some(Jwk::from_encoding_key(&own.key, Algorithm::ES256).unwrap());
    tokens.push(own.sign_with(&header, &claims()));
    // Even when the signature holds.
    tokens.push(signer.sign_with(&header, &claims()));
    for change in [
        (|header: &mut Header| header.x5c = Some(vec!["MIIB".to_owned()])) as fn(&mut Header),
        |header| header.jku = Some("https://evil.example.com".to_owned()),
        |header| header.x5u = Some("https://evil.example.com".to_owned()),
        |header| header.crit = Some(vec!["x".to_owned()]),
    ] {
        let mut header = Header::new(Algorithm::ES256);
        change(&mut header);
        tokens.push(signer.sign_with(&header, &claims()));
    }
    tokens.extend(["", "a.b.c", "..", "a.b"].map(str::to_owned));
    for token in tokens {
        assert_eq!(identify(&access, &token).await, Err(Refused::Credentials), "{token}");
    }
}

#[tokio::test]
async fn takes_the_keys_of_a_set_that_are_for_signatures() {
    let files = Files::new();
    let signer = Signer::new(Algorithm::ES256);
    let mut jwk =
        serde_json::to_value(Jwk::from_encoding_key(&signer.key, Algorithm::ES256).unwrap()).unwrap();
    jwk["kid"] = json!("one");
    let shared = json!({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"});
    let set = |jwk: &Value| json!({"keys": [shared, jwk]}).to_string();
    let access = open(&files, &set(&jwk)).unwrap();
    let mut header = Header::new(Algorithm::ES256);
    assert!(identify(&access, &signer.sign_with(&header, &claims())).await.is_ok());
    header.kid = Some("one".to_owned());
    assert!(identify(&access, &signer.sign_with(&header, &claims())).await.is_ok());
    header.kid = Some("two".to_owned());
    assert!(identify(&access, &signer.sign_with(&header, &claims())).await.is_err());
    let by_secret = encode(&Header::new(Algorithm::HS256), &claims(), &EncodingKey::from_secret(b"secret"));
    assert!(identify(&access, &by_secret.unwrap()).await.is_err());
    jwk["use"] = json!("enc");
    let message = open(&files, &set(&jwk)).err().unwrap().to_string();
    assert!(message.contains("holds no public key"), "{message}");
}

#[test]
fn refuses_files_that_hold_other_than_public_keys() {
    let files = Files::new();
    let private = KeyPair::generate().unwrap().serialize_pem();
    for (text, what) in [
        ("", "holds no public key"),
        ("{\"keys\": []}", "holds no public key"),
        ("{", "no JWK set"),
        (private.as_str(), "private key"),
        ("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "else than public keys"),
        ("-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----\n", "neither RSA"),
    ] {
        let message = open(&files, text).err().unwrap().to_string();
        assert!(message.contains(what), "{message}");
    }
}

#[tokio::test]
async fn grants_of_names_without_a_registry_are_those_of_the_default_upstream() {
    let signer = Signer::new(Algorithm::EdDSA);
    let access = open(&Files::new(), &signer.public).unwrap().with_default_upstream("ghcr.io");
    let grant = json!([
        {"type": "repository", "name": "library/alpine", "actions": ["*"]},
        {"type": "registry", "name": "catalog", "actions": ["*"]},
    ]);
    let caller = identify(&access, &signer.sign(&changed("access", grant))).await.unwrap();
    assert!(Action::ALL.iter().all(|action| access.allows(&caller, *action, "ghcr.io/library/alpine")));
    assert!(!access.allows(&caller, Action::Pull, "docker.io/library/alpine"));
    assert!(!access.allows(&caller, Action::Pull, "ghcr.io/catalog"));
    assert!(!access.may_pull_everything(&caller));
}

#[tokio::test]
async fn tells_where_to_get_a_token_for_what_is_wanted() {
    let signer = Signer::new(Algorithm::EdDSA);
    let access = open(&Files::new(), &signer.public).unwrap();
    let wanted = Wanted { repository: "docker.io/library/alpine", actions: &[Action::Pull, Action::Push] };
    let realm = "Bearer realm=\"https://auth.example.com/token\",service=\"larder\"";
    let scope = ",scope=\"repository:docker.io/library/alpine:pull,push\"";
    assert_eq!(access.challenges(&Caller::Anonymous, None), [realm]);
    assert_eq!(access.challenges(&Caller::Anonymous, Some(wanted)), [format!("{realm}{scope}")]);
    let caller = identify(&access, &signer.sign(&claims())).await.unwrap();
    let expected = format!("{realm}{scope},error=\"insufficient_scope\"");
    assert_eq!(access.challenges(&caller, Some(wanted)), [expected]);
}

#[test]
fn refuses_a_service_that_is_not_all_there() {
    let files = Files::new();
    let signer = Signer::new(Algorithm::EdDSA);
    let whole = JwtConfig {
        issuer: "i".to_owned(),
        service: "s".to_owned(),
        keys: files.write("keys", &signer.public),
        realm: None,
    };
    for (change, setting) in [
        ((|jwt: &mut JwtConfig| jwt.issuer.clear()) as fn(&mut JwtConfig), "access.jwt.issuer"),
        (|jwt| jwt.service.clear(), "access.jwt.service"),
        (|jwt| jwt.service = "a\"b".to_owned(), "access.jwt.service"),
        (|jwt| jwt.realm = Some("a\nb".to_owned()), "access.jwt.realm"),
        (|jwt| jwt.keys.clear(), "access.jwt.keys"),
    ] {
        let mut jwt = whole.clone();
        change(&mut jwt);
        let config = AccessConfig { jwt: Some(jwt), ..AccessConfig::default() };
        let message = Access::open(&config, false).err().unwrap().to_string();
        assert!(message.starts_with(setting), "{message}");
    }
}
