//! Owns what people are told when something went wrong: one clear line per code, in Russian and English.
//! It must never name a number, a code or a key; each line says what to do next.

use crate::error::Code;

/// A language that the appliance speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lang {
    /// Russian.
    Ru,
    /// English.
    En,
}

impl Lang {
    /// The language of a tag such as `ru` or `ru-RU`.
    #[must_use]
    pub fn of_tag(tag: &str) -> Option<Self> {
        let primary = tag.split(['-', '_']).next().unwrap_or_default();
        if primary.eq_ignore_ascii_case("ru") {
            Some(Self::Ru)
        } else if primary.eq_ignore_ascii_case("en") {
            Some(Self::En)
        } else {
            None
        }
    }

    /// The best liked language of an `Accept-Language` header that we speak.
    #[must_use]
    pub fn of_header(header: &str) -> Option<Self> {
        let mut best: Option<(f32, Self)> = None;
        for part in header.split(',').take(32) {
            let mut pieces = part.split(';');
            let Some(lang) = pieces.next().and_then(|tag| Self::of_tag(tag.trim())) else {
                continue;
            };
            let weight = pieces
                .find_map(|p| p.trim().strip_prefix("q="))
                .map_or(Some(1.0), |q| q.trim().parse().ok())
                .unwrap_or(0.0);
            if weight > 0.0 && best.is_none_or(|(w, _)| weight > w) {
                best = Some((weight, lang));
            }
        }
        best.map(|(_, lang)| lang)
    }

    /// The tag, as in `Content-Language`.
    #[must_use]
    pub const fn tag(self) -> &'static str {
        match self {
            Self::Ru => "ru",
            Self::En => "en",
        }
    }
}

/// What a person is told about a code, with the finer reason where it changes what to do.
#[must_use]
pub fn message(code: Code, reason: Option<&str>, lang: Lang) -> &'static str {
    let (ru, en) = reason
        .and_then(|reason| finer(code, reason))
        .unwrap_or_else(|| plain(code));
    match lang {
        Lang::Ru => ru,
        Lang::En => en,
    }
}

/// Reasons that change what to do.
fn finer(code: Code, reason: &str) -> Option<(&'static str, &'static str)> {
    let words = match (code, reason) {
        (Code::InvalidPhoneFormat, "empty") => ("Введите номер телефона.", "Type a phone number."),
        (Code::InvalidPhoneFormat, "letters") => (
            "В номере есть лишние знаки. Оставьте только цифры.",
            "There is something else than digits in the number. Leave only the digits.",
        ),
        (Code::InvalidPhoneFormat, "too_short") => (
            "В номере не хватает цифр. Введите его целиком, с кодом города или оператора.",
            "The number is too short. Type all of it, with the area code.",
        ),
        (Code::InvalidPhoneFormat, "too_long") => (
            "В номере лишние цифры. Проверьте его.",
            "The number has too many digits. Check it.",
        ),
        (Code::InvalidPhoneFormat, "extension") => (
            "Добавочный номер привязать нельзя. Введите номер без добавочного.",
            "An extension cannot be linked. Type the number without it.",
        ),
        (Code::InvalidPhoneFormat, "not_in_plan") => (
            "Такого номера не бывает. Проверьте цифры и страну.",
            "There is no such number. Check the digits and the country.",
        ),
        (Code::InvalidPhoneFormat, "too_much_text") => (
            "Здесь слишком много текста. Введите только номер.",
            "That is too much text. Type only the number.",
        ),
        (Code::BadMessage, "not_found") => (
            "Такого адреса здесь нет. Проверьте путь; все пути перечислены в /openapi.json.",
            "There is nothing at this address. Check the path; /openapi.json lists them all.",
        ),
        (Code::BadMessage, "method_not_allowed") => (
            "Этот адрес не отвечает на такой метод. Подходящие методы — в заголовке Allow.",
            "This address does not answer to that method. The Allow header names those that it does.",
        ),
        (Code::BadMessage, "content_type") => (
            "Тело запроса должно быть в JSON: укажите Content-Type: application/json.",
            "The request's body must be JSON: send Content-Type: application/json.",
        ),
        (Code::BadMessage, "too_large") => (
            "Запрос слишком большой: не больше 4 КиБ.",
            "The request is too large: send 4 KiB at most.",
        ),
        (Code::BadMessage, "too_slow") => (
            "Запрос приходил слишком долго. Отправьте его ещё раз.",
            "The request took too long to arrive. Send it again.",
        ),
        (Code::BadMessage, "upgrade") => (
            "Сюда подключаются только по WebSocket или обычному HTTP/1.1.",
            "Only a WebSocket or plain HTTP/1.1 is spoken here.",
        ),
        (Code::BadMessage, "bad_id") => (
            "Имя сессии: от 1 до 32 строчных латинских букв, цифр и дефисов, не с дефиса.",
            "A session's id is 1 to 32 lower-case letters, digits and dashes, and does not start with a dash.",
        ),
        (Code::BadMessage, "bad_name") => (
            "Название: от 1 до 64 знаков в одну строку.",
            "A name has 1 to 64 characters on one line.",
        ),
        (Code::BadMessage, "default_session") => (
            "Основную сессию salon нельзя удалить. Можно отвязать её номер.",
            "The default session salon cannot be removed. Unlink its number instead.",
        ),
        (Code::StoreUnavailable, "told_not_wiped") => (
            "WhatsApp уже забыл эту связь, но стереть её здесь не удалось. Освободите место на диске и попробуйте снова.",
            "WhatsApp has forgotten the link, but it could not be erased here. Free space on the disk, then try again.",
        ),
        (Code::RateLimited, "login") => (
            "Слишком много неверных ключей с этого адреса. Подождите и попробуйте снова.",
            "Too many wrong keys from this address. Wait, then try again.",
        ),
        (Code::RateLimited, "too_many_sessions") => (
            "Больше сессий добавить нельзя. Удалите лишнюю или увеличьте sessions.max.",
            "No more sessions can be added. Remove one, or raise sessions.max.",
        ),
        (Code::RateLimited, "messages") => (
            "Слишком много сообщений подряд. Подождите секунду.",
            "Too many messages at once. Wait a second.",
        ),
        _ => return None,
    };
    Some(words)
}

#[expect(clippy::too_many_lines, reason = "a list reads best in one piece")]
fn plain(code: Code) -> (&'static str, &'static str) {
    match code {
        Code::InvalidPhoneFormat => (
            "Это не похоже на номер телефона. Проверьте цифры и введите номер целиком.",
            "This does not look like a phone number. Check the digits and type the whole number.",
        ),
        Code::InvalidCountryCode => (
            "Неизвестная страна. Выберите страну из списка или введите номер с +.",
            "Unknown country. Choose one from the list or type the number with a +.",
        ),
        Code::BadMessage => (
            "Запрос не понят. Обновите страницу и попробуйте снова.",
            "The request was not understood. Reload the page and try again.",
        ),
        Code::Unauthorized => (
            "Нужен ключ доступа. Его показывает команда hairpin access-key на самом устройстве.",
            "The access key is needed. The command hairpin access-key shows it on the appliance itself.",
        ),
        Code::ForbiddenOrigin => (
            "Страница открыта по чужому адресу. Откройте её по адресу устройства или внесите имя в web.allowed_hosts.",
            "This address is not the appliance's own. Open the page by its own address, or add the name to web.allowed_hosts.",
        ),
        Code::NoSuchSession => (
            "Такой сессии нет. Обновите страницу или добавьте сессию.",
            "There is no such session. Reload the page or add the session.",
        ),
        Code::AlreadyLinked => (
            "Этот номер уже привязан, ничего делать не нужно.",
            "This number is linked already; nothing needs to be done.",
        ),
        Code::ReplaceConfirmationRequired => (
            "Уже привязан другой номер. Подтвердите, что его нужно заменить.",
            "Another number is linked. Confirm that it is to be replaced.",
        ),
        Code::LinkingInProgress => (
            "Телефон принял код, идёт привязка. Подождите минуту.",
            "The phone has taken the code and is being linked. Wait a minute.",
        ),
        Code::Cancelled => (
            "Запрос кода отменён. Запросите новый код, если он ещё нужен.",
            "The request was cancelled. Ask for a new code if it is still needed.",
        ),
        Code::Superseded => (
            "Запрошен код для другого номера, этот больше не действует. Запросите новый, если нужен.",
            "A code for another number was asked for, so this one is void. Ask again if it is still needed.",
        ),
        Code::WrongPhoneLinked => (
            "Привязали не тот номер, поэтому связь разорвана. Введите код на телефоне с нужным номером.",
            "Another number than the one asked for was linked, so it was unlinked. Type the code on the right phone.",
        ),
        Code::RateLimited => (
            "Слишком много запросов. Подождите и попробуйте снова.",
            "Too many requests. Wait, then try again.",
        ),
        Code::WhatsappRateLimited => (
            "WhatsApp пока не выдаёт код. Подождите, прежде чем просить снова.",
            "WhatsApp gives no code for now. Wait before asking again.",
        ),
        Code::WhatsappRejected => (
            "WhatsApp отклонил запрос. Проверьте, что на этом номере есть WhatsApp, и попробуйте позже.",
            "WhatsApp refused the request. Check that this number uses WhatsApp, and try later.",
        ),
        Code::WhatsappUnreachable => (
            "Нет связи с WhatsApp. Проверьте интернет и попробуйте снова.",
            "WhatsApp cannot be reached. Check the internet connection and try again.",
        ),
        Code::CodeNotAvailable => (
            "WhatsApp не даёт кода для этого номера. Отсканируйте QR-код.",
            "WhatsApp offers no code for this number. Scan the QR code instead.",
        ),
        Code::PasskeyRequired => (
            "WhatsApp требует ключ доступа (passkey), здесь его ввести нельзя. Отключите его в телефоне и повторите.",
            "WhatsApp wants a passkey, which cannot be given here. Turn it off on the phone and try again.",
        ),
        Code::ClientOutdated => (
            "WhatsApp требует версию новее. Обновите Hairpin.",
            "WhatsApp wants a newer version. Update Hairpin.",
        ),
        Code::LoggedOut => (
            "Телефон отвязал это устройство. Запросите код и привяжите его снова.",
            "The phone removed this device. Ask for a code and link it again.",
        ),
        Code::Replaced => (
            "Эту связь открыла другая программа. Закройте её, затем нажмите «Подключить снова».",
            "Another program uses this link. Close it, then choose to reconnect.",
        ),
        Code::Banned => (
            "WhatsApp временно заблокировал номер. Дождитесь конца блокировки или откройте WhatsApp на телефоне.",
            "WhatsApp banned this number for a while. Wait until it ends, or open WhatsApp on the phone.",
        ),
        Code::Locked => (
            "WhatsApp заблокировал учётную запись. Откройте WhatsApp на телефоне и следуйте его указаниям.",
            "WhatsApp locked the account. Open WhatsApp on the phone and do what it says.",
        ),
        Code::HalfLinked => (
            "В телефоне может остаться это устройство. Удалите его там (Связанные устройства), затем запросите новый код.",
            "The phone may still list this device. Remove it there (Linked devices), then ask for a new code.",
        ),
        Code::StoreUnavailable => (
            "Хранилище недоступно, ничего не изменено. Проверьте место на диске и запустите hairpin check.",
            "The store cannot be used and nothing was changed. Check the disk's free space and run hairpin check.",
        ),
        Code::ShuttingDown => (
            "Программа останавливается. Попробуйте через минуту.",
            "The program is stopping. Try again in a minute.",
        ),
        Code::Internal => (
            "Ошибка программы. Попробуйте снова; если повторится, посмотрите журнал службы.",
            "A fault of the program. Try again; if it stays, look into the service's log.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_line_in_both_languages() {
        for code in Code::ALL {
            let (ru, en) = plain(code);
            assert!(ru.chars().any(|c| ('а'..='я').contains(&c)), "{code}: {ru}");
            assert!(en.is_ascii() && en.len() > 20, "{code}: {en}");
            for line in [ru, en] {
                assert!(
                    !line.contains('\n') && line.ends_with('.'),
                    "{code}: {line}"
                );
            }
        }
    }

    #[test]
    fn every_reason_of_a_number_has_a_line_of_its_own() {
        let reasons = [
            "empty",
            "letters",
            "too_short",
            "too_long",
            "extension",
            "not_in_plan",
            "too_much_text",
        ];
        for reason in reasons {
            let own = message(Code::InvalidPhoneFormat, Some(reason), Lang::Ru);
            assert_ne!(
                own,
                message(Code::InvalidPhoneFormat, None, Lang::Ru),
                "{reason}"
            );
        }
    }

    #[test]
    fn the_best_liked_language_is_taken() {
        for (header, lang) in [
            ("ru", Some(Lang::Ru)),
            ("ru-RU,ru;q=0.9,en-US;q=0.8", Some(Lang::Ru)),
            ("en-GB", Some(Lang::En)),
            ("de, ru;q=0.4, en;q=0.6", Some(Lang::En)),
            ("de;q=0.9, fr", None),
            ("ru;q=0, en;q=0.1", Some(Lang::En)),
            ("ru;q=nonsense", None),
            ("", None),
            ("rundi", None),
        ] {
            assert_eq!(Lang::of_header(header), lang, "{header}");
        }
    }
}
