"""Write the sample texts beside this file: eight sentences in sixteen languages, Python, and what Unicode has of trouble.

    python make_texts.py [FOLDER]

All of it was made up for this purpose; the same bytes come out every time.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

SENTENCES = {
    "en": (
        "The train to the coast leaves at seven in the morning.",
        "My sister bought three red apples and a loaf of bread.",
        "It rained all night, but the streets are already dry.",
        "Can you tell me where the old library is?",
        "The children built a house of snow behind the school.",
        "He reads the newspaper every day and drinks two cups of tea.",
        "Without water, the flowers in the garden will not survive.",
        "We will meet tomorrow at the bridge if the weather is good.",
    ),
    "de": (
        "Der Zug zur Küste fährt um sieben Uhr morgens ab.",
        "Meine Schwester kaufte drei rote Äpfel und einen Laib Brot.",
        "Es hat die ganze Nacht geregnet, aber die Straßen sind schon trocken.",
        "Können Sie mir sagen, wo die alte Bibliothek ist?",
        "Die Kinder bauten hinter der Schule ein Haus aus Schnee.",
        "Er liest jeden Tag die Zeitung und trinkt zwei Tassen Tee.",
        "Ohne Wasser werden die Blumen im Garten nicht überleben.",
        "Wir treffen uns morgen an der Brücke, wenn das Wetter gut ist.",
    ),
    "fr": (
        "Le train pour la côte part à sept heures du matin.",
        "Ma sœur a acheté trois pommes rouges et un pain.",
        "Il a plu toute la nuit, mais les rues sont déjà sèches.",
        "Pouvez-vous me dire où se trouve la vieille bibliothèque ?",
        "Les enfants ont construit une maison de neige derrière l'école.",
        "Il lit le journal tous les jours et boit deux tasses de thé.",
        "Sans eau, les fleurs du jardin ne survivront pas.",
        "Nous nous retrouverons demain au pont s'il fait beau.",
    ),
    "es": (
        "El tren a la costa sale a las siete de la mañana.",
        "Mi hermana compró tres manzanas rojas y una barra de pan.",
        "Llovió toda la noche, pero las calles ya están secas.",
        "¿Puede decirme dónde está la biblioteca antigua?",
        "Los niños construyeron una casa de nieve detrás de la escuela.",
        "Lee el periódico todos los días y bebe dos tazas de té.",
        "Sin agua, las flores del jardín no sobrevivirán.",
        "Nos vemos mañana en el puente si hace buen tiempo.",
    ),
    "it": (
        "Il treno per la costa parte alle sette del mattino.",
        "Mia sorella ha comprato tre mele rosse e una pagnotta.",
        "Ha piovuto tutta la notte, ma le strade sono già asciutte.",
        "Può dirmi dov'è la vecchia biblioteca?",
        "I bambini hanno costruito una casa di neve dietro la scuola.",
        "Legge il giornale ogni giorno e beve due tazze di tè.",
        "Senza acqua i fiori del giardino non sopravvivranno.",
        "Ci incontreremo domani al ponte se il tempo è bello.",
    ),
    "nl": (
        "De trein naar de kust vertrekt om zeven uur 's ochtends.",
        "Mijn zus kocht drie rode appels en een brood.",
        "Het heeft de hele nacht geregend, maar de straten zijn al droog.",
        "Kunt u mij zeggen waar de oude bibliotheek is?",
        "De kinderen bouwden achter de school een huis van sneeuw.",
        "Hij leest elke dag de krant en drinkt twee kopjes thee.",
        "Zonder water zullen de bloemen in de tuin niet overleven.",
        "We zien elkaar morgen bij de brug als het mooi weer is.",
    ),
    "pl": (
        "Pociąg na wybrzeże odjeżdża o siódmej rano.",
        "Moja siostra kupiła trzy czerwone jabłka i bochenek chleba.",
        "Padało całą noc, ale ulice są już suche.",
        "Czy może mi pan powiedzieć, gdzie jest stara biblioteka?",
        "Dzieci zbudowały za szkołą dom ze śniegu.",
        "Codziennie czyta gazetę i pije dwie filiżanki herbaty.",
        "Bez wody kwiaty w ogrodzie nie przeżyją.",
        "Spotkamy się jutro przy moście, jeśli będzie ładna pogoda.",
    ),
    "ru": (
        "Поезд на побережье отправляется в семь часов утра.",
        "Моя сестра купила три красных яблока и буханку хлеба.",
        "Всю ночь шёл дождь, но улицы уже сухие.",
        "Вы не скажете, где находится старая библиотека?",
        "Дети построили за школой дом из снега.",
        "Он каждый день читает газету и выпивает две чашки чая.",
        "Без воды цветы в саду не выживут.",
        "Мы встретимся завтра у моста, если будет хорошая погода.",
    ),
    "el": (
        "Το τρένο για την ακτή φεύγει στις επτά το πρωί.",
        "Η αδελφή μου αγόρασε τρία κόκκινα μήλα και ένα καρβέλι ψωμί.",
        "Έβρεχε όλη τη νύχτα, αλλά οι δρόμοι είναι ήδη στεγνοί.",
        "Μπορείτε να μου πείτε πού είναι η παλιά βιβλιοθήκη;",
        "Τα παιδιά έχτισαν ένα σπίτι από χιόνι πίσω από το σχολείο.",
        "Διαβάζει κάθε μέρα την εφημερίδα και πίνει δύο φλιτζάνια τσάι.",
        "Χωρίς νερό τα λουλούδια στον κήπο δεν θα επιζήσουν.",
        "Θα συναντηθούμε αύριο στη γέφυρα αν ο καιρός είναι καλός.",
    ),
    "tr": (
        "Sahile giden tren sabah saat yedide kalkıyor.",
        "Kız kardeşim üç kırmızı elma ve bir somun ekmek aldı.",
        "Bütün gece yağmur yağdı ama sokaklar çoktan kurudu.",
        "Eski kütüphanenin nerede olduğunu söyleyebilir misiniz?",
        "Çocuklar okulun arkasında kardan bir ev yaptılar.",
        "Her gün gazete okur ve iki fincan çay içer.",
        "Su olmadan bahçedeki çiçekler hayatta kalamaz.",
        "Hava güzel olursa yarın köprüde buluşacağız.",
    ),
    "fi": (
        "Juna rannikolle lähtee kello seitsemän aamulla.",
        "Siskoni osti kolme punaista omenaa ja leivän.",
        "Koko yön satoi, mutta kadut ovat jo kuivat.",
        "Voitteko kertoa, missä vanha kirjasto on?",
        "Lapset rakensivat koulun taakse talon lumesta.",
        "Hän lukee sanomalehden joka päivä ja juo kaksi kuppia teetä.",
        "Ilman vettä puutarhan kukat eivät selviä.",
        "Tapaamme huomenna sillalla, jos sää on hyvä.",
    ),
    "ar": (
        "يغادر القطار إلى الساحل في الساعة السابعة صباحا.",
        "اشترت أختي ثلاث تفاحات حمراء ورغيف خبز.",
        "أمطرت طوال الليل لكن الشوارع جافة الآن.",
        "هل يمكنك أن تخبرني أين المكتبة القديمة؟",
        "بنى الأطفال بيتا من الثلج خلف المدرسة.",
        "يقرأ الجريدة كل يوم ويشرب كوبين من الشاي.",
        "بدون ماء لن تعيش الأزهار في الحديقة.",
        "سنلتقي غدا عند الجسر إذا كان الطقس جيدا.",
    ),
    "he": (
        "הרכבת לחוף יוצאת בשבע בבוקר.",
        "אחותי קנתה שלושה תפוחים אדומים וכיכר לחם.",
        "ירד גשם כל הלילה, אבל הרחובות כבר יבשים.",
        "אתה יכול לומר לי איפה הספרייה הישנה?",
        "הילדים בנו בית משלג מאחורי בית הספר.",
        "הוא קורא את העיתון כל יום ושותה שתי כוסות תה.",
        "בלי מים הפרחים בגינה לא ישרדו.",
        "ניפגש מחר ליד הגשר אם מזג האוויר יהיה טוב.",
    ),
    "hi": (
        "तट की ओर जाने वाली रेलगाड़ी सुबह सात बजे छूटती है।",
        "मेरी बहन ने तीन लाल सेब और एक रोटी खरीदी।",
        "सारी रात बारिश हुई, लेकिन सड़कें अब सूखी हैं।",
        "क्या आप मुझे बता सकते हैं कि पुराना पुस्तकालय कहाँ है?",
        "बच्चों ने विद्यालय के पीछे बर्फ का एक घर बनाया।",
        "वह हर दिन अखबार पढ़ता है और दो कप चाय पीता है।",
        "पानी के बिना बगीचे के फूल जीवित नहीं रहेंगे।",
        "अगर मौसम अच्छा रहा तो हम कल पुल पर मिलेंगे।",
    ),
    "zh": (
        "去海边的火车早上七点出发。",
        "我妹妹买了三个红苹果和一条面包。",
        "下了一整夜的雨,但是街道已经干了。",
        "你能告诉我旧图书馆在哪里吗?",
        "孩子们在学校后面用雪建了一座房子。",
        "他每天看报纸,喝两杯茶。",
        "没有水,花园里的花活不下去。",
        "如果天气好,我们明天在桥边见面。",
    ),
    "ja": (
        "海岸行きの列車は朝七時に出発します。",
        "妹は赤いりんごを三つとパンを一つ買いました。",
        "一晩中雨が降りましたが、道はもう乾いています。",
        "古い図書館がどこにあるか教えてくれますか。",
        "子どもたちは学校の裏に雪の家を作りました。",
        "彼は毎日新聞を読み、お茶を二杯飲みます。",
        "水がなければ、庭の花は生き残れません。",
        "天気がよければ、明日橋で会いましょう。",
    ),
}
PYTHON = '''\
def collatz(n: int) -> list[int]:
    """Numbers from ``n`` down to 1: halved where even, else tripled and one more."""
    found = [n]
    while n != 1:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        found.append(n)
    return found


class LongestSoFar:
\tlimit = 1_000  # tabs here, on purpose

\tdef __init__(self, best=None):
\t\tself.best = best or {}

\tdef update(self, n):
\t\tself.best[n] = len(collatz(n)); return max(self.best, key=self.best.get)


if __name__ == "__main__":
    seen = LongestSoFar()
    print([seen.update(i) for i in range(1, 20)], 3.14e-5, 0xFF, "it's", f"{7!r:>4}")
'''
TROUBLE = (
    "a\u0301 e\u0301 (marks on letters), \u00e9 (one character), \u0301 (a mark alone), \t\u0301 (on white space)",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f44b\U0001f3fd \U0001f1eb\U0001f1ee\U0001f1ee\U0001f1f8 1\ufe0f\u20e3",
    "  two spaces,   three,\u00a0one that does not break,\u2003a wide one, \u200b none at all",
    "\u202bright to left \u05d0\u05d1\u05d2 123\u202c, back",
    "$5.00 1,234.5 3\u20444 x=1; y=2 foo(bar) howAreYou how_are_you ...a \u00abquoted\u00bb don\u2019t",
    "NUL:\0 bell:\a escape:\x1b delete:\x7f line:\u2028 paragraph:\u2029 next:\x85 mark:\ufeff replacement:\ufffd",
    "\U0010ffff\U000e0001 \ud7ff\ue000 " + "long" * 40 + " \r\n\r only\n\n\nend without a line's end",
)


def texts() -> dict[str, tuple[str, str, str]]:
    """File name to its text, language and what it is."""
    parallel = {
        f"{code}.txt": ("".join(f"{line}\n" for line in found), code, "Eight sentences, the same in every language")
        for code, found in SENTENCES.items()
    }
    return parallel | {
        "code.txt": (PYTHON, "python", "Python with spaces and tabs"),
        "trouble.txt": (
            "\n".join(TROUBLE),
            "",
            "Marks, joiners, controls, directions, a long word, no end of the last line",
        ),
    }


def main(folder: Path) -> None:
    """Write the files and their manifest."""
    rows = []
    for name, (text, language, label) in texts().items():
        (folder / name).write_bytes(text.encode("utf-8"))
        rows.append({"path": name, "split": "test", "language": language, "label": label})
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
