/**
 * Every visible string of the page, in English. A translation is this file with other words: keys and {places} stay.
 *
 * Where a number decides the form, an entry has the plural forms of `Intl.PluralRules` ("one", "other").
 */

export const LANGUAGE = "en";

export const strings = {
  // ---------------------------------------------------------------- the page
  title: "mien studio",
  skip: "Skip to the content",
  tabs: { label: "What to read", picture: "Picture", webcam: "Webcam", video: "Video", compare: "Compare" },
  theme: {
    label: "Colours: {name}. Switch to {next}.",
    system: "the system’s",
    light: "light",
    dark: "dark",
  },
  side: {
    browser: "In this browser",
    server: "On the server",
    pill: "{side}. Open the settings.",
    sent: "Pictures are sent to {host} to be read. They are not kept there.",
    back: "Read in this browser instead",
  },
  state: {
    starting: "Starting…",
    loading: "Loading {model}…",
    warming: "Starting {model}…",
    loadingShare: "Loading {model}: {percent}",
    ready: "{model} {version} · {reading} · {side}",
    readyPlain: "{model} {version} · {side}",
    busy: "The server is busy. Trying again in {seconds} s…",
    offline: "Offline. Pictures are read in this browser all the same.",
    offlineServer: "Offline. The server cannot be reached; pictures wait.",
    failed: "Pictures cannot be read. {action}",
    threads: { one: "{count} thread", other: "{count} threads" },
  },
  readings: { people: "people’s reading", fer2013: "FER-2013’s reading", own: "its own classes" },
  failure: {
    title: "The model could not be loaded",
    wasm: "This browser has no WebAssembly, which reading in the browser needs. Use a current browser, or read on the server.",
    model: "{model} could not be loaded from {host}. Check the connection and try again, or read on the server.",
    server: "The server at {host} does not answer. Check that it runs, or read in this browser.",
    notReady: "The server is still loading its model. Try again in a moment.",
    retry: "Try again",
    useServer: "Read on the server",
    useBrowser: "Read in this browser",
    openSettings: "Open the settings",
    view: "This part of the page could not be loaded. Check the connection and reload the page.",
    detail: "What was reported: {error}",
    short: "See what to do.",
  },
  token: {
    title: "This server asks for a token",
    text: "Whoever runs {host} has it. It stays in this page’s memory and is forgotten when the page is closed.",
    label: "Token",
    wrong: "The server did not accept this token.",
    use: "Use it",
    cancel: "Not now",
    missing: "the server asks for a token",
  },
  dialog: { close: "Close" },
  notices: { dismiss: "Dismiss", region: "Messages" },

  // ---------------------------------------------------------------- settings
  settings: {
    open: "Settings",
    title: "Settings",
    side: "Where pictures are read",
    sideBrowser: "The model runs here. No picture leaves this device.",
    sideServer: "Every picture is sent to {host}, read in its memory, and forgotten with the answer.",
    model: "Model",
    models: {
      "mien-nano": "{size}. Quick, also on phones.",
      "mien-b0": "{size}. More exact, several times slower.",
    },
    labels: "Reading",
    labelsPeople: "People’s",
    labelsPeopleHint: "A score is the share of people who would name this emotion.",
    labelsFer2013: "FER-2013’s",
    labelsFer2013Hint: "A score is the chance that the data set’s own label is this emotion. For comparing with published figures.",
    minFace: "Smallest face",
    minFaceHint: "Pixels across, {least} to {most}. Smaller faces are left out; 0 leaves none out.",
    pixels: "pixels",
    charts: "Scores beside each face in saved pictures",
    serverFixed: "A server reads with the model and options it was started with.",
    kept: "Settings are kept in this browser. Pictures, results and tokens are not.",
    megabytes: "{size} MB",
  },

  // ---------------------------------------------------------------- what the numbers mean
  about: {
    open: "What these numbers mean",
    line: "Shares of people who would say so, not feelings.",
    title: "What these numbers mean",
    lead: "mien says what a face looks like to people. That is all it knows.",
    sections: [
      {
        title: "A score is a share of people",
        text: "0.80 for happy says: of people who are shown this face and asked to name one emotion, about eight in ten would say happy. With FER-2013’s reading it says how often that data set’s label would be happy.",
      },
      {
        title: "It is not a feeling",
        text: "People smile to greet, to please, to hide. A review of a thousand studies found that adults scowl in about three of ten cases when they are angry, and often when they are not. There is no reliable way from one to the other, for people or for networks.",
      },
      {
        title: "It is not an intensity",
        text: "A faint smile that everybody recognises has a high score. 0.4 is not half as happy as 0.8. The seven scores sum to 1: mixed faces spread, and the bars say more than the word.",
      },
      {
        title: "Leave out what is uncertain",
        text: "A reading is called uncertain where too few people would agree, or where the face is turned away. Compare people with themselves, not with others: some faces look stern or sad at rest.",
      },
      {
        title: "It is not the same for everybody",
        text: "How well it works by age, gender, skin colour or culture has not been measured. Seven words are a convention: boredom, pain and concentration get one of them all the same.",
      },
    ],
    forbidden: "What they must not be used for",
    forbiddenList: [
      "Emotions at work or in education: forbidden in the European Union, but for medical or safety reasons (Regulation (EU) 2024/1689, Article 5).",
      "People who do not know about it, or have not agreed.",
      "Decisions about people: hiring, credit, insurance, health, policing, borders, lies.",
      "Ranking people by mood, or paying them by it.",
    ],
    good: "What they are good for",
    goodText: "Research and teaching with consent, sorting your own pictures, and interfaces that react to an expression somebody makes on purpose and can call wrong.",
    write: "So write “reads as happy”, not “is happy”.",
    sources: "Barrett et al. 2019, Psychological Science in the Public Interest 20(1).",
  },

  // ---------------------------------------------------------------- a face
  emotions: {
    angry: "angry",
    disgust: "disgust",
    fear: "fear",
    happy: "happy",
    neutral: "neutral",
    sad: "sad",
    surprise: "surprise",
  },
  face: {
    number: "Face {number}",
    person: "Person {number}",
    label: "{emotion} {percent}",
    labelUncertain: "{emotion}? {percent}",
    readsAs: "Reads as {emotion}",
    shareOfPeople: "About {count} of 100 people would say so.",
    shareOfLabels: "FER-2013’s label would say so about {count} times in 100.",
    shareOfOwn: "{count} of 100, by the model’s own classes.",
    uncertain: "Uncertain",
    uncertainScore: "Too few people would agree on one word. Read the bars, not the word.",
    uncertainLabels: "No label is likely enough. Read the bars, not the word.",
    uncertainTurned: "The face is turned away. Do not rely on this reading.",
    scores: "Scores",
    scoresOf: "Scores of {name}",
    quality: "Quality",
    flags: { small: "Small", blurred: "Blurred", dark: "Dark", bright: "Overexposed", turned_away: "Turned away" },
    flagHints: {
      small: "Less than 24 pixels across: such faces are read clearly worse.",
      blurred: "Out of focus or moving: such faces are read clearly worse.",
      dark: "Too little light on the face.",
      bright: "Much of the face is burnt out.",
      turned_away: "Eyes, nose and mouth are not where a face that looks at the camera has them.",
    },
    details: "Details",
    box: "Box",
    boxValue: "{w} × {h} at {x}, {y}",
    faceConfidence: "Detector’s confidence",
    blur: "Blur",
    valence: "Valence",
    valenceHint: "happy less the largest of angry, disgust, fear and sad, from −1 to 1",
    heat: "What speaks for it",
    heatShow: "Show heat map",
    heatFor: "Heat map for",
    heatWorking: "Covering the face piece by piece…",
    heatPeak: {
      one: "Covering the warmest place costs the score {count} point of 100.",
      other: "Covering the warmest place costs the score {count} points of 100.",
    },
    heatNothing: "No place on its own speaks for {emotion}.",
    heatText: "Warm places are those the score hangs on. It is about the network, not about the person.",
    heatServer: "Heat maps are made in the browser. Choose “In this browser” in the settings.",
    heatFailed: "The heat map could not be made: {error}",
    heatAlt: "Heat map of {name} for {emotion}",
    cropAlt: "{name}",
  },

  // ---------------------------------------------------------------- pictures
  picture: {
    title: "Picture",
    heading: "See what a face looks like to people",
    lead: "Every face gets seven scores: the share of people who would name each emotion.",
    drop: "Drop pictures here",
    dropNow: "Let go to read them",
    paste: "or paste with {key}",
    choose: "Choose pictures",
    add: "Add pictures",
    sample: "Try a sample",
    sampleName: "astronaut.jpg",
    sampleFailed: "The sample could not be fetched. Check the connection and try again.",
    readRest: "Read the rest",
    readAgainNew: "Read again with these settings",
    busyText: "The server has more to do than it can. The picture is sent again by itself.",
    offlineText: "The server cannot be reached. The picture is sent again as soon as it can.",
    sampleSource: "Sample: portrait of Eileen Collins by NASA, public domain.",
    privateBrowser: "Read in this browser. No picture leaves this device.",
    privateServer: "Read on {host}. Every picture is sent there.",
    formats: "JPEG, PNG, WebP, GIF, BMP, AVIF. As many at once as you like.",
    all: "All pictures",
    remove: "Remove {name}",
    clear: "Clear",
    cancel: "Stop",
    open: "Open {name}: {status}",
    grid: "Pictures",
    pasted: "pasted.png",
    progress: "{done} of {total} read",
    done: { one: "{count} picture", other: "{count} pictures" },
    faces: { one: "{count} face", other: "{count} faces" },
    position: "{index} of {total}",
    previous: "Previous picture",
    next: "Next picture",
    noImages: "There was no picture in that. Choose JPEG, PNG or WebP files.",
    stage: "{name}. Arrow keys choose a face, plus and minus zoom, 0 shows the whole picture.",
    canvas: "{name}: {summary}",
    zoomIn: "Zoom in",
    zoomOut: "Zoom out",
    fit: "Show the whole picture",
    zoom: "{percent}",
    boxes: "Boxes",
    boxesHint: "Show boxes and labels",
    faceList: "Faces",
    status: {
      queued: "Waiting",
      waiting: "Waiting for the model",
      reading: "Reading…",
      busy: "Server busy, waiting",
      offline: "Offline, waiting",
      ok: "Read",
      no_face: "No face",
      unreadable: "Not readable",
      error: "Failed",
      cancelled: "Stopped",
    },
    noFaceTitle: "No face found",
    noFace: [
      "Faces that look at the camera are found best; from behind or in profile they are not.",
      "A face needs about 24 pixels across. Crop the picture around it, or use a larger one.",
      "If the picture lies on its side, turn it upright.",
    ],
    unreadableTitle: "This is no picture that can be read",
    unreadable: "The file is damaged, or of a kind that this browser does not know. Save it as JPEG or PNG and try again.",
    largeTitle: "This picture is too large",
    large: "Make it smaller, or crop it around the faces, and try again.",
    errorTitle: "This picture could not be read",
    cancelledTitle: "Stopped before it was read",
    readAgain: "Try again",
    reported: "What was reported: {error}",
    announceDone: "{name}: {summary}",
    announceAll: "{done} pictures are read. {faces} in all.",
    summaryOk: "{faces}: {emotions}",
  },
  download: {
    open: "Download",
    openAll: "Download all",
    png: "Annotated picture",
    pngHint: "PNG, with boxes and scores",
    pngAll: "Annotated pictures",
    pngAllHint: "ZIP of PNG files",
    json: "Results",
    jsonHint: "JSON, as mien predict writes it",
    csv: "Table",
    csvHint: "CSV, one row a face",
    saved: "{name} is saved.",
    preparing: "Drawing {done} of {total}…",
    failed: "{name} could not be saved: {error}",
  },

  // ---------------------------------------------------------------- webcam

  // ---------------------------------------------------------------- video

  // ---------------------------------------------------------------- compare

  // ---------------------------------------------------------------- timeline
  timeline: {
    label: "Timeline",
    labelOf: "Timeline of person {number}",
    empty: "What is read appears here over time.",
    hint: "Arrow keys move the cursor, plus and minus zoom.",
    zoomIn: "Zoom in",
    zoomOut: "Zoom out",
    whole: "Show all of it",
    valueText: "{time} of {end}: {what}",
    strip: "reads as",
    readsAs: "reads as {emotion} {percent}",
    uncertain: "uncertain",
    absent: "not seen",
    valence: "valence",
    valenceIs: "valence {value}",
    baseline: "baseline",
    mean: "mean",
    span: "{from} to {to}",
    corrected: "corrected by a baseline",
    note: "Scores of {emotions}, each from 0 to 100%; above them the likeliest.",
    paler: "Paler: the largest of the scores that share a column.",
  },

  // ---------------------------------------------------------------- report
  report: {
    label: "Report",
    person: "Person",
    seen: "Seen",
    start: "Start",
    end: "End",
    lasts: "Lasts",
    seconds: "{seconds} s",
    emotion: "Reads as",
    mean: "Mean",
    peak: "Peak",
    valence: "Valence",
    uncertain: "Uncertain",
    shares: "Shares of time",
    people: "People",
    peopleHint: "Of the time that somebody is seen: the share in which each emotion is the likeliest, mean valence, and how much is uncertain.",
    nobody: "Nobody was seen.",
    corrected: "Corrected by the baseline.",
    raw: "(not in the baseline)",
    episodes: "Episodes",
    episodesHint: "Stretches with one likeliest emotion by the smoothed scores: the mean and the largest of them.",
    notCorrected: "Not corrected by the baseline.",
    noEpisodes: "There is no episode: nobody was seen.",
    events: "Events",
    eventsHint: "Mean scores and valence of everybody who is seen in an event.",
    event: "Event",
    unnamed: "unnamed",
    nobodySeen: "nobody",
    noEvents: "There is no event.",
    showAll: { one: "Show the {count} row", other: "Show all {count} rows" },
  },
};

/** Put values into a template's {places}; a place without a value stays as it is. */
export function format(template, values = {}) {
  return template.replace(/\{(\w+)\}/g, (place, key) => (key in values ? String(values[key]) : place));
}

const plurals = new Intl.PluralRules(LANGUAGE);
const whole = new Intl.NumberFormat(LANGUAGE);

/** The form of an entry that suits a count, with the count (and other values) in it. */
export function counted(forms, count, values = {}) {
  return format(forms[plurals.select(count)] ?? forms.other, { count: whole.format(count), ...values });
}

const shares = new Intl.NumberFormat(LANGUAGE, { style: "percent", maximumFractionDigits: 0 });

/** A share, 0 to 1, as text: 0.914 is "91%". */
export function percent(share) {
  return shares.format(share);
}

/** A number with a fixed number of decimals, as the language writes it. */
export function decimal(value, digits = 2) {
  return new Intl.NumberFormat(LANGUAGE, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);
}
